package oneshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"

	"github.com/aethervm/aether/internal/guest/files"
	"github.com/aethervm/aether/sandbox"
)

// ReadFile is Files.ReadFile.
func (r *Runner) ReadFile(ctx context.Context, name string, w io.Writer) error {
	return r.read(ctx, name, w)
}

// ReadRange is sandbox.RangeReader's.
func (r *Runner) ReadRange(ctx context.Context, name string, offset, size int64, w io.Writer) error {
	if err := sandbox.CheckRange(offset, size); err != nil {
		return err
	}
	return r.read(ctx, name, w, strconv.FormatInt(offset, 10), strconv.FormatInt(size, 10))
}

func (r *Runner) read(ctx context.Context, name string, w io.Writer, part ...string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	_, err := r.file(ctx, "read", name, nil, guard(w, cancel), part...)
	if cause := context.Cause(ctx); cause != nil {
		return cause // the writer's own error, not that of the run it broke
	}
	return err
}

// WriteFile is Files.WriteFile.
func (r *Runner) WriteFile(ctx context.Context, name string, content io.Reader, perm fs.FileMode) error {
	source := &Source{R: content}
	_, err := r.file(ctx, "write", name, files.ChunkReader(source), nil, strconv.FormatUint(uint64(perm.Perm()), 8))
	if source.Err != nil {
		return fmt.Errorf("read the content for %s: %w", name, source.Err)
	}
	return err
}

// ReadDir is Files.ReadDir.
func (r *Runner) ReadDir(ctx context.Context, name string) ([]sandbox.FileInfo, error) {
	out, err := r.file(ctx, "list", name, nil, nil)
	if err != nil {
		return nil, err
	}
	var list []sandbox.FileInfo
	return list, r.decode("list", out, &list)
}

// Stat is Files.Stat.
func (r *Runner) Stat(ctx context.Context, name string) (sandbox.FileInfo, error) {
	var info sandbox.FileInfo
	out, err := r.file(ctx, "stat", name, nil, nil)
	if err != nil {
		return info, err
	}
	return info, r.decode("stat", out, &info)
}

// Remove is Files.Remove.
func (r *Runner) Remove(ctx context.Context, name string) error {
	_, err := r.file(ctx, "remove", name, nil, nil)
	return err
}

func (r *Runner) file(ctx context.Context, op, name string, stdin io.Reader, stdout io.Writer, extra ...string) ([]byte, error) {
	if err := sandbox.CheckPath(name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out, _, err := r.agent(ctx, stdin, stdout, append([]string{"fs", op, name}, extra...)...)
	if errors.Is(err, errAgent) {
		return nil, r.failure(op, out, err)
	}
	return out, err
}

// failure reads what the agent says of a failed file operation.
func (r *Runner) failure(op string, out []byte, err error) error {
	var f files.Failure
	if json.Unmarshal(out, &f) != nil || f.Kind == "" {
		return err
	}
	return f.Err(op, r.system, r.id)
}

func (r *Runner) decode(op string, out []byte, into any) error {
	if err := json.Unmarshal(out, into); err != nil {
		return &sandbox.Error{Op: op, System: r.system, Sandbox: r.id, Err: errAgent, Detail: err.Error()}
	}
	return nil
}
