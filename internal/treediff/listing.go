package treediff

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/sandbox"
)

// Tree is the agent of a sandbox, as agentproto.Client has it. Its methods pass on what the agent says.
type Tree interface {
	Changes(ctx context.Context, after string, limit int, each func(agentproto.Change) error) (agentproto.Walked, error)
	Examine(ctx context.Context, list []agentproto.Want, each func(agentproto.Change) error) error
}

const (
	// pagePaths is how many paths are asked for at one time, and pageBytes how many bytes of them, and of targets, are taken
	// for that. An agent sends less of both by itself.
	pagePaths = 1 << 14
	pageBytes = 8 << 20
)

// less is the order of a walk: a directory comes before what is in it, and that before the directory's next neighbour.
func less(a, b string) bool {
	n := min(len(a), len(b))
	for i := range n {
		if x, y := a[i], b[i]; x != y {
			return rank(x) < rank(y)
		}
	}
	return len(a) < len(b)
}

// rank puts the end of a name before all that may be in one.
func rank(c byte) byte {
	if c == '/' {
		return 0
	}
	return c
}

// checkPath holds a path of an agent to one that a walk can have.
func checkPath(p string) error {
	if err := sandbox.CheckPath(p); err != nil {
		return fmt.Errorf("%w: %w", agentproto.ErrProtocol, err)
	}
	if p == "/" || path.Clean(p) != p {
		return fmt.Errorf("%w: the path %.100q", agentproto.ErrProtocol, p)
	}
	return nil
}

// page is a part of what an agent lists.
type page struct {
	list []agentproto.Change
	agentproto.Walked
}

// last is the last path that the page is complete up to.
func (p page) last() string { return p.list[len(p.list)-1].Path }

// list asks an agent for the paths behind after.
func list(ctx context.Context, t Tree, after string) (p page, err error) {
	bytes, last := 0, after
	p.Walked, err = t.Changes(ctx, after, pagePaths, func(c agentproto.Change) error {
		if err := checkPath(c.Path); err != nil {
			return err
		}
		if last != "" && !less(last, c.Path) {
			return fmt.Errorf("%w: %.100q is listed behind %.100q", agentproto.ErrProtocol, c.Path, last)
		}
		last = c.Path
		if bytes += len(c.Path) + len(c.Target); len(p.list) == pagePaths || bytes > pageBytes {
			return fmt.Errorf("%w: more than %d paths, or %d bytes of them", agentproto.ErrProtocol, pagePaths, pageBytes)
		}
		c.Digest = "" // nobody has asked for one
		p.list = append(p.list, c)
		return nil
	})
	if err == nil && p.More && len(p.list) == 0 {
		err = fmt.Errorf("%w: there is more behind %.100q, and nothing is listed", agentproto.ErrProtocol, after)
	}
	return p, err
}

// own tells whether a path is what aether itself gives each sandbox.
func own(p string) bool {
	switch p {
	case "/etc/machine-id", "/var/lib/dbus/machine-id", "/.aether":
		return true
	}
	return strings.HasPrefix(p, "/.aether/")
}

// Unrelated is the error of a comparison with a sandbox of another system or image.
func Unrelated(system, id string) error {
	return &sandbox.Error{Op: "diff", System: system, Sandbox: id, Err: sandbox.ErrInvalid,
		Detail: "the other one is no sandbox of this system and image", Remedy: "compare it with a copy of it, or with another one of the same image"}
}
