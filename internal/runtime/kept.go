package runtime

import (
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
)

// storage is the account of the files that the snapshots of a tenant lie in. A snapshot may share files with others and with
// templates, by hard links: such a file counts once, for as long as any snapshot has it. Its methods may be called concurrently.
type storage struct {
	mu    sync.Mutex // is taken before that of a ledger
	files map[fileID]*countedFile
}

// fileID identifies a file, whatever its names are.
type fileID struct{ device, inode uint64 }

type countedFile struct {
	bytes, snapshots int64
	paid             *ledger // that it is on
}

func newStorage() *storage { return &storage{files: map[fileID]*countedFile{}} }

// charge is what a snapshot or a template has of the budgets. Nil has nothing.
type charge struct {
	in     *storage
	ledger *ledger
	claim  claim    // its own, without files
	files  []fileID // of in
}

// keep reserves what a snapshot or a template (kind tells which) of a sandbox may come to need, which is about as much as the
// sandbox has memory. The caller settles it, and releases it when what it is for is not on disk any more.
func (s *Session) keep(op string, kind Resource, memoryMiB int) (*charge, error) {
	t, err := s.r.tenant(op, s.tenant.ID)
	if err != nil {
		return nil, err
	}
	k := &charge{in: t.kept, ledger: s.ledger, claim: claim{kind: 1, KeptBytes: int64(memoryMiB) << 20}}
	if no := k.ledger.take(k.claim); no != nil {
		e := no.err(op, nil)
		if no.Resource == KeptBytes {
			e.Cause += ", as much as the sandbox has memory: what it does not need is given back when it is made"
			if no.Wanted > no.Limit {
				e.Remedy = "use a sandbox with less memory, or ask for a larger budget: removing others does not help"
			}
		}
		return nil, e
	}
	return k, nil
}

// settle changes what was reserved to what there is: bytes or, where there are any, files. On error everything is as it was.
func (k *charge) settle(op string, bytes int64, files map[fileID]int64) error {
	if no := k.change(bytes, files, (*ledger).take); no != nil {
		return no.err(op, nil)
	}
	return nil
}

// change puts bytes, or files, in the place of the bytes that k has; take takes what is more.
func (k *charge) change(bytes int64, files map[fileID]int64, take func(*ledger, claim) *BudgetRefusal) *BudgetRefusal {
	k.in.mu.Lock()
	defer k.in.mu.Unlock()
	own := bytes
	if len(files) > 0 {
		own = 0
	}
	need := own
	for id, size := range files {
		if k.in.files[id] == nil {
			need += size
		}
	}
	if more := need - k.claim[KeptBytes]; more > 0 {
		if no := take(k.ledger, claim{KeptBytes: more}); no != nil {
			return no
		}
	} else {
		k.ledger.add(claim{KeptBytes: more})
	}
	k.claim[KeptBytes] = own
	for id, size := range files {
		f := k.in.files[id]
		if f == nil {
			f = &countedFile{bytes: size, paid: k.ledger}
			k.in.files[id] = f
		}
		f.snapshots++
		k.files = append(k.files, id)
	}
	return nil
}

// keptFrom counts what a former process has kept, whatever the budget says of it. It is nil if the tenant is not known.
func (r *Runtime) keptFrom(tenantID string, kind Resource, bytes int64, files map[fileID]int64) *charge {
	t := r.tenants[tenantID]
	if t == nil {
		return nil
	}
	k := &charge{in: t.kept, ledger: t.ledger, claim: claim{kind: 1}}
	k.ledger.add(k.claim)
	k.change(bytes, files, func(l *ledger, c claim) *BudgetRefusal {
		l.add(c)
		return nil
	})
	return k
}

// release gives everything back. What is released already has nothing.
func (k *charge) release() {
	if k == nil {
		return
	}
	k.in.mu.Lock()
	defer k.in.mu.Unlock()
	back := claim{}
	for r, n := range k.claim {
		back[r] = -n
	}
	k.ledger.add(back)
	for _, id := range k.files {
		f := k.in.files[id]
		if f.snapshots--; f.snapshots == 0 {
			f.paid.add(claim{KeptBytes: -f.bytes})
			delete(k.in.files, id)
		}
	}
	k.claim, k.files = nil, nil
}

// onDisk are the files below a directory, with the space that each takes.
func onDisk(dir string) (map[fileID]int64, error) {
	files := map[fileID]int64{}
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t) // it is a file of this host
		files[fileID{st.Dev, st.Ino}] = st.Blocks * 512
		return nil
	})
	return files, err
}
