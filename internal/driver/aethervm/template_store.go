package aethervm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aethervm/aether/internal/filelock"
	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/sandbox"
)

// templates is a directory of them. Each is a directory named after its content:
//
//	sha256-HEX/machine, machine.stamp, template.json
//	names/NAME                    a link to one of these
//	.new-ID/                      one in the making, whose maker has locked its file "lock"; or one that is being removed
//	.new-ID                       a link that becomes a name
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

// lock is for who changes names: filelock.Exclusive, or looks at what they lead to: filelock.Shared. Closing what it returns
// lets go of it.
func (t *templates) lock(ctx context.Context, how filelock.How) (io.Closer, error) {
	return filelock.Wait(ctx, filepath.Join(t.dir, lockName), how, 0o600, nil)
}

// making is a template in the making.
type making struct {
	store *templates
	dir   string
	alive io.Closer
}

// begin makes a place for a template, and removes what makers that were killed have left.
func (t *templates) begin(ctx context.Context) (_ *making, err error) {
	guard, err := t.lock(ctx, filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, guard.Close()) }()
	if err := t.sweep(); err != nil {
		return nil, err
	}
	m := &making{store: t, dir: filepath.Join(t.dir, makingPrefix+lease.NewID())}
	if err := os.Mkdir(m.dir, 0o700); err != nil {
		return nil, err
	}
	if m.alive, err = filelock.Wait(ctx, filepath.Join(m.dir, lockName), filelock.Exclusive, 0o600, nil); err != nil {
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

// publish gives the template its name. What is at a name is on disk, as a whole, before the name is, and that before an
// older template goes. On error nothing of it is left once it is abandoned.
func (m *making) publish(ctx context.Context, t sandbox.Template) (err error) {
	b, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	if err := errors.Join(writeSynced(filepath.Join(m.dir, templateName), b), syncDir(m.dir)); err != nil {
		return err
	}
	guard, err := m.store.lock(ctx, filelock.Exclusive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guard.Close()) }()
	content := contentName(t.Digest)
	if err := m.store.dropUnnamed(content); err != nil { // left by somebody who was killed, whole or not
		return err
	}
	if err := os.Remove(filepath.Join(m.dir, lockName)); err != nil {
		return err
	}
	if err := os.Rename(m.dir, filepath.Join(m.store.dir, content)); err != nil && !errors.Is(err, fs.ErrExist) { // else the same one is there
		return err
	} else if err == nil {
		err = m.alive.Close()
		m.alive = nil
		if err != nil {
			return errors.Join(err, m.store.dropUnnamed(content))
		}
	}
	old, err := m.store.name(t.Name, content)
	if err != nil {
		return errors.Join(err, m.store.dropUnnamed(content))
	}
	_ = m.store.dropUnnamed(old) // the template is there; the next maker removes the old one
	return nil
}

// name has a name lead to a template, in one step, also if it has led to an older one, which it returns. The caller holds the
// lock.
func (t *templates) name(name, content string) (old string, err error) {
	if err := syncDir(t.dir); err != nil {
		return "", err
	}
	names := filepath.Join(t.dir, namesName)
	link, path := filepath.Join(t.dir, makingPrefix+lease.NewID()), filepath.Join(names, name)
	if to, err := os.Readlink(path); err == nil {
		old = filepath.Base(to)
	}
	if err := os.Symlink(filepath.Join("..", content), link); err != nil {
		return "", err
	}
	if err := os.Rename(link, path); err != nil {
		return "", errors.Join(err, os.Remove(link))
	}
	if err := syncDir(names); err != nil {
		return "", nil // the name is there, but the older template has to stay for now
	}
	return old, nil
}

func contentName(digest string) string { return strings.Replace(digest, ":", "-", 1) }

// find returns a template and its directory. The caller holds the lock.
func (t *templates) find(op, name string) (sandbox.Template, string, error) {
	to, err := os.Readlink(filepath.Join(t.dir, namesName, name))
	content := filepath.Base(to)
	if err != nil || !strings.HasPrefix(content, contentPrefix) {
		return sandbox.Template{}, "", &sandbox.Error{Op: op, System: System, Err: fs.ErrNotExist,
			Detail: fmt.Sprintf("there is no template %q", name), Remedy: "`aether template ls` lists those that there are"}
	}
	dir := filepath.Join(t.dir, content)
	found, err := readDescription(filepath.Join(dir, templateName))
	if err == nil && (found.System != System || contentName(found.Digest) != content) {
		err = fmt.Errorf("it is of system %q and digest %q", found.System, found.Digest)
	}
	if err == nil {
		found.Spec, err = found.Spec.WithDefaults()
	}
	if err != nil {
		return sandbox.Template{}, "", damaged(op, name, fmt.Errorf("%s: %w", templateName, err))
	}
	found.Name = name
	return found, dir, nil
}

func readDescription(path string) (t sandbox.Template, err error) {
	f, err := snapshot.OpenRegular(path)
	if err != nil {
		return t, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxDescription))
	if err = errors.Join(err, f.Close()); err != nil {
		return t, err
	}
	return t, json.Unmarshal(b, &t)
}

func damaged(op, name string, err error) error {
	return &sandbox.Error{Op: op, System: System, Err: sandbox.ErrInvalid,
		Detail: fmt.Sprintf("template %q: %v", name, err), Remedy: "remove the template and create it again"}
}

// open finds a template and opens its file, which stays open whatever becomes of the name and the template. The file has the
// content that the template is named after; its memory is not read. The caller closes it.
func (t *templates) open(ctx context.Context, op, name string) (found sandbox.Template, dir string, f *snapshot.File, err error) {
	guard, err := t.lock(ctx, filelock.Shared)
	if err != nil {
		return found, "", nil, err
	}
	defer func() { err = errors.Join(err, guard.Close()) }()
	if found, dir, err = t.find(op, name); err != nil {
		return found, "", nil, err
	}
	f, err = snapshot.Open(filepath.Join(dir, machineName))
	if errors.Is(err, fs.ErrNotExist) {
		return found, "", nil, damaged(op, name, err)
	}
	if err != nil {
		return found, "", nil, err
	}
	if got := f.Digest(); got != found.Digest {
		err = fmt.Errorf("%s has the content %s, not %s", machineName, got, found.Digest)
		return found, "", nil, errors.Join(damaged(op, name, err), f.Close())
	}
	return found, dir, f, nil
}

// list returns the templates by name. One that cannot be read is left out.
func (t *templates) list(ctx context.Context) (_ []sandbox.Template, err error) {
	guard, err := t.lock(ctx, filelock.Shared)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, guard.Close()) }()
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
func (t *templates) remove(ctx context.Context, op, name string) (err error) {
	guard, err := t.lock(ctx, filelock.Exclusive)
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
	if err := errors.Join(os.Remove(path), syncDir(filepath.Dir(path))); err != nil {
		return err
	}
	return t.dropUnnamed(filepath.Base(to))
}
