package main

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/host"
	"github.com/aethervm/aether/internal/runtime"
)

// How many sandboxes a tenant may have at the same time, and snapshots and templates in all, unless its budget says something else.
const (
	defaultSandboxes = 100
	defaultSnapshots = 1000
	defaultTemplates = 100
)

// defaultBudget is that of tenants that are made without one by a server with that state directory: what adds up is not bounded,
// of the host's memory a quarter is left, and of the disk that the directory is on half is given.
func defaultBudget(state string) runtime.Budget {
	b := runtime.Budget{Sandboxes: defaultSandboxes, Snapshots: defaultSnapshots, Templates: defaultTemplates, KeptBytes: diskSize(state) / 2}
	if memory, err := host.Meminfo(); err == nil {
		b.MemoryMiB = memory["MemTotal"] / 4 * 3 >> 20
	}
	return b
}

// diskSize is the size, in bytes, of the file system that a directory is on, which need not be there yet; 0 if it is not known.
func diskSize(dir string) int64 {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err == nil {
			return diskBytes(&st)
		}
		if above := filepath.Dir(dir); errors.Is(err, fs.ErrNotExist) && above != dir {
			dir = above
			continue
		}
		return 0
	}
}

// diskBytes is the size of a file system, 0 if it does not say it.
func diskBytes(st *unix.Statfs_t) int64 {
	unit := st.Frsize // of Blocks; few file systems leave it out
	if unit <= 0 {
		unit = st.Bsize
	}
	if unit <= 0 {
		return 0
	}
	return int64(min(st.Blocks, uint64(math.MaxInt64/unit))) * unit
}

// defaultTenant is the one that there is without --tenant.
const defaultTenant = "default"

type tenantFile struct{ name, file string }

func (o serveOptions) tenantFiles() ([]tenantFile, error) {
	if o.noAuth {
		if len(o.tenants) > 0 {
			return nil, usageError("leave out one of them", "--no-auth needs no --tenant")
		}
		return nil, nil
	}
	if len(o.tenants) == 0 {
		return []tenantFile{{defaultTenant, filepath.Join(o.state, "token")}}, nil
	}
	return nameFiles("--tenant", o.tenants)
}

// nameFiles are the values NAME=FILE of a flag.
func nameFiles(flag string, values []string) (list []tenantFile, err error) {
	for _, v := range values {
		name, file, ok := strings.Cut(v, "=")
		if !ok || name == "" || file == "" {
			return nil, usageError("give NAME=FILE", "%s %s", flag, v)
		}
		list = append(list, tenantFile{name, file})
	}
	return list, nil
}

// giveToken makes a tenant unless it is there, and sees to it that file has a token of it.
func (o serveOptions) giveToken(ctx context.Context, rt *runtime.Runtime, name, file string) error {
	tenants, err := rt.Tenants(ctx)
	if err != nil {
		return err
	}
	var token string
	for _, t := range tenants {
		if t.Name != name {
			continue
		}
		if old, err := os.ReadFile(file); err == nil {
			if owner, err := rt.Authenticate(ctx, strings.TrimSpace(string(old))); err == nil && owner.ID == t.ID {
				return nil
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if token, err = rt.NewToken(ctx, t.ID); err != nil {
			return err
		}
	}
	if token == "" {
		if _, token, err = rt.CreateTenant(ctx, runtime.TenantSpec{Name: name, Capabilities: o.capabilities(), Budget: o.budget.budget}); err != nil {
			return err
		}
	}
	return writeSecret(file, token+"\n")
}

// writeSecret writes a file that only its owner can read, whole or not at all.
func writeSecret(file, text string) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // its mode is 0600
	if err != nil {
		return failed(err, "choose a directory that exists and that you may write to", "write %s: %v", file, err)
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return failed(err, "", "write %s: %v", file, err)
	}
	return nil
}

// giveViewToken sees to it that file has a view token of a tenant that is there.
func giveViewToken(ctx context.Context, rt *runtime.Runtime, name, file string) error {
	tenants, err := rt.Tenants(ctx)
	if err != nil {
		return err
	}
	for _, t := range tenants {
		if t.Name != name {
			continue
		}
		if old, err := os.ReadFile(file); err == nil {
			if shown, err := rt.View(ctx, strings.TrimSpace(string(old))); err == nil && shown.ID == t.ID {
				return nil
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		token, err := rt.NewViewToken(ctx, t.ID)
		if err != nil {
			return err
		}
		return writeSecret(file, token+"\n")
	}
	return notFound(nil, "make it with --tenant, or `aether tenant add`", "--view-token: there is no tenant %q", name)
}
