package docker

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// Sweep is Driver.Sweep. It removes the containers of leases whose owners are dead, and of leases that
// are gone: the run directory may be wiped by a reboot that containers outlast. With them go the
// snapshots that nobody can want any more (see staleSnapshot).
func (d *Driver) Sweep(ctx context.Context) (int, error) {
	dead, err := lease.Dead(d.leases)
	swept := false
	defer func() {
		for _, l := range dead {
			if swept {
				_ = l.Release()
			} else {
				l.Abandon()
			}
		}
	}()
	if err != nil {
		return 0, &sandbox.Error{Op: "sweep", System: system, Err: sandbox.ErrUnavailable, Detail: err.Error()}
	}
	eng, err := d.connect(ctx)
	if err != nil {
		if len(dead) == 0 && errors.Is(err, sandbox.ErrUnavailable) {
			return 0, nil // no engine, and nothing known to be left in one
		}
		return 0, err
	}
	isDead := map[string]bool{}
	for _, l := range dead {
		isDead[l.ID] = true
	}
	unfinished, settleErr := eng.settleCreations(ctx, dead)
	containers, err := eng.sweepContainers(ctx, isDead)
	images, imagesErr := eng.sweepSnapshots(ctx, isDead)
	err = errors.Join(settleErr, err, imagesErr)
	swept = err == nil
	return unfinished + containers + images, eng.fail(ctx, "sweep", "", err)
}

// creationMark begins the names of files in a lease's directory that stand for requests to create a
// container. The engine does not drop a request when its client dies, so a container may come into
// being after a sweeper has looked.
const creationMark = "creating-"

// markCreation notes that the container of sandbox id is about to be created from an image.
func markCreation(leaseDir, id, image string) (string, error) {
	name := filepath.Join(leaseDir, creationMark+id)
	return name, os.WriteFile(name, []byte(image), 0o600)
}

// settleCreations ends the creations that the owners of dead leases have left under way.
func (e *engine) settleCreations(ctx context.Context, dead []*lease.Lease) (int, error) {
	var errs []error
	n := 0
	for _, l := range dead {
		marks, err := filepath.Glob(filepath.Join(l.Dir, creationMark+"*"))
		errs = append(errs, err)
		for _, mark := range marks {
			image, err := os.ReadFile(mark)
			if err != nil || len(image) == 0 {
				continue // its owner died before the request
			}
			removed, err := e.settle(ctx, containerName(strings.TrimPrefix(filepath.Base(mark), creationMark)), string(image))
			if removed {
				n++
			}
			errs = append(errs, err)
		}
	}
	return n, errors.Join(errs...)
}

// settle makes sure that no container of the name comes into being behind our back. The engine takes
// the name at the beginning of a creation: whoever can take it knows that none is under way.
func (e *engine) settle(ctx context.Context, name, image string) (removed bool, err error) {
	for {
		_, err := e.cli.ContainerRemove(ctx, name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		if err == nil {
			return true, nil
		}
		if errdefs.IsNotFound(err) {
			_, err = e.cli.ContainerCreate(ctx, client.ContainerCreateOptions{Name: name, Image: image,
				Config: &container.Config{Entrypoint: []string{"never-started"}}})
			switch {
			case err == nil:
				return false, e.remove(ctx, name)
			case errdefs.IsNotFound(err): // without the image nobody can create it
				return false, nil
			}
		}
		if !errdefs.IsConflict(err) {
			return false, err
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (e *engine) sweepContainers(ctx context.Context, isDead map[string]bool) (int, error) {
	list, err := e.cli.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("label", labelLease)})
	if err != nil {
		return 0, err
	}
	var errs []error
	n := 0
	for _, c := range list.Items {
		if !isDead[c.Labels[labelLease]] && !gone(c.Labels[labelLeaseDir]) {
			continue
		}
		if err := e.remove(ctx, c.ID); err != nil {
			errs = append(errs, err)
			continue
		}
		n++
	}
	return n, errors.Join(errs...)
}

func (e *engine) sweepSnapshots(ctx context.Context, isDead map[string]bool) (int, error) {
	list, err := e.cli.ImageList(ctx, client.ImageListOptions{
		Filters: make(client.Filters).Add("label", labelSnapshot)})
	if err != nil {
		return 0, err
	}
	var errs []error
	n := 0
	for _, img := range list.Items {
		if !isDead[img.Labels[labelLease]] && !staleSnapshot(img.Labels) && len(img.RepoTags) > 0 {
			continue
		}
		// Not by force: a sandbox that lives may have been restored from it.
		_, err := e.cli.ImageRemove(ctx, img.ID, client.ImageRemoveOptions{PruneChildren: true})
		switch {
		case err == nil:
			n++
		case !errdefs.IsNotFound(err) && !errdefs.IsConflict(err):
			errs = append(errs, err)
		}
	}
	return n, errors.Join(errs...)
}

// staleSnapshot tells whether a snapshot has been given up. It outlives the driver that made it, and
// belongs to whoever owns the directory that it was made for: it is stale when neither is there.
func staleSnapshot(labels map[string]string) bool {
	return gone(labels[labelLeaseDir]) && gone(labels[labelSnapshotDir])
}

// gone tells whether a directory is certainly not there.
func gone(dir string) bool {
	if dir == "" {
		return false
	}
	_, err := os.Stat(dir)
	return errors.Is(err, fs.ErrNotExist)
}
