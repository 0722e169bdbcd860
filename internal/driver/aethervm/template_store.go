package aethervm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// templates is a directory of them. Each is a directory named after its content:
//
//	sha256-HEX/machine, machine.stamp, template.json
//	names/NAME                    a link to one of these
//	.new-ID/                      one in the making, whose maker has locked its file "lock"
//
// Names change under the lock of the file "lock", which is held for moments only.
type templates struct{ dir string }

const (
	templateName   = "template.json"
	namesName      = "names"
	makingPrefix   = ".new-"
	contentPrefix  = "sha256-"
	lockName       = "lock"
	maxDescription = 1 << 20
)

// openTemplates makes the directory if it is missing. What is in it has guests' memory, so that it is for its owner alone.
func openTemplates() (*templates, error) {
	state, err := hostdir.State()
	if err != nil {
		return nil, err
	}
	t := &templates{dir: filepath.Join(state, "templates", System)}
	if err := os.MkdirAll(filepath.Join(t.dir, namesName), 0o700); err != nil {
		return nil, fmt.Errorf("open templates: %w", err)
	}
	return t, nil
}

// lock takes the lock of a file, which it makes if it is missing. Closing what it returns lets go of it.
func lock(path string, how int) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

func (t *templates) lock() (io.Closer, error) {
	return lock(filepath.Join(t.dir, lockName), unix.LOCK_EX)
}

// making is a template in the making.
type making struct {
	store *templates
	dir   string
	alive io.Closer
}

// begin makes a place for a template, and removes those of makers that were killed.
func (t *templates) begin() (_ *making, err error) {
	guard, err := t.lock()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, guard.Close()) }()
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), makingPrefix) {
			continue
		}
		dir := filepath.Join(t.dir, e.Name())
		if dead, err := lock(filepath.Join(dir, lockName), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			_ = errors.Join(os.RemoveAll(dir), dead.Close()) // else the next one does
		}
	}
	m := &making{store: t, dir: filepath.Join(t.dir, makingPrefix+lease.NewID())}
	if err := os.Mkdir(m.dir, 0o700); err != nil {
		return nil, err
	}
	if m.alive, err = lock(filepath.Join(m.dir, lockName), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, os.RemoveAll(m.dir))
	}
	return m, nil
}

// abandon removes what was made, unless it was published.
func (m *making) abandon() error {
	if m.alive == nil {
		return nil
	}
	err := errors.Join(os.RemoveAll(m.dir), m.alive.Close())
	m.alive = nil
	return err
}

// publish gives the template its name.
func (m *making) publish(t sandbox.Template) (err error) {
	b, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.dir, templateName), b, 0o600); err != nil {
		return err
	}
	guard, err := m.store.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guard.Close()) }()
	content := contentName(t.Digest)
	to := filepath.Join(m.store.dir, content)
	if err := os.Remove(filepath.Join(m.dir, lockName)); err != nil {
		return err
	}
	if err := os.Rename(m.dir, to); err != nil && !errors.Is(err, fs.ErrExist) { // else the same one is there
		return err
	} else if err == nil {
		err = m.alive.Close()
		m.alive = nil
		if err != nil {
			return err
		}
	}
	// A name comes in one step, also in place of an older one.
	link := filepath.Join(m.store.dir, makingPrefix+lease.NewID())
	name := filepath.Join(m.store.dir, namesName, t.Name)
	old, _ := os.Readlink(name)
	if err := os.Symlink(filepath.Join("..", content), link); err != nil {
		return err
	}
	if err := os.Rename(link, name); err != nil {
		return errors.Join(err, os.Remove(link))
	}
	return m.store.dropUnnamed(filepath.Base(old))
}

func contentName(digest string) string { return strings.Replace(digest, ":", "-", 1) }

// dropUnnamed removes a template that no name leads to. The caller holds the lock.
func (t *templates) dropUnnamed(content string) error {
	if !strings.HasPrefix(content, contentPrefix) {
		return nil
	}
	names, err := os.ReadDir(filepath.Join(t.dir, namesName))
	if err != nil {
		return err
	}
	for _, n := range names {
		if to, err := os.Readlink(filepath.Join(t.dir, namesName, n.Name())); err == nil && filepath.Base(to) == content {
			return nil
		}
	}
	return os.RemoveAll(filepath.Join(t.dir, content))
}

// find returns a template and its directory.
func (t *templates) find(op, name string) (sandbox.Template, string, error) {
	to, err := os.Readlink(filepath.Join(t.dir, namesName, name))
	content := filepath.Base(to)
	if err != nil || !strings.HasPrefix(content, contentPrefix) {
		return sandbox.Template{}, "", &sandbox.Error{Op: op, System: System, Err: fs.ErrNotExist,
			Detail: fmt.Sprintf("there is no template %q", name), Remedy: "`aether template ls` lists those that there are"}
	}
	dir := filepath.Join(t.dir, content)
	f, err := os.Open(filepath.Join(dir, templateName))
	if err != nil {
		return sandbox.Template{}, "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxDescription))
	if err = errors.Join(err, f.Close()); err != nil {
		return sandbox.Template{}, "", err
	}
	var found sandbox.Template
	err = json.Unmarshal(b, &found)
	if err == nil && (found.System != System || contentName(found.Digest) != content) {
		err = fmt.Errorf("it is of system %q and digest %q", found.System, found.Digest)
	}
	if err == nil {
		found.Spec, err = found.Spec.WithDefaults()
	}
	if err != nil {
		return sandbox.Template{}, "", &sandbox.Error{Op: op, System: System, Err: sandbox.ErrInvalid,
			Detail: fmt.Sprintf("%s of template %q: %v", templateName, name, err), Remedy: "remove the template and create it again"}
	}
	found.Name = name
	return found, dir, nil
}

// list returns the templates by name. One that cannot be read is left out.
func (t *templates) list() ([]sandbox.Template, error) {
	names, err := os.ReadDir(filepath.Join(t.dir, namesName))
	if err != nil {
		return nil, err
	}
	list := []sandbox.Template{}
	for _, n := range names {
		if found, _, err := t.find("list templates", n.Name()); err == nil {
			list = append(list, found)
		}
	}
	slices.SortFunc(list, func(a, b sandbox.Template) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// remove removes a name, and with its last name the template.
func (t *templates) remove(op, name string) (err error) {
	guard, err := t.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guard.Close()) }()
	path := filepath.Join(t.dir, namesName, name)
	to, err := os.Readlink(path)
	if err != nil {
		_, _, err = t.find(op, name)
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return t.dropUnnamed(filepath.Base(to))
}
