package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/aethervm/aether/internal/filelock"
)

// The database holds what outlives the process, and what the next one must know of a process that
// was killed. Each bucket maps a key to one JSON record.
const (
	databaseName = "runtime.db"
	// livingPattern is of a database of its own, one for each boot of the host. It has the sandboxes, and the keys of
	// what made them. They end with the host at the latest, so that it need outlive the process only, and nothing
	// waits for the disk.
	livingPattern = "sandboxes-*.db"

	bucketMeta      = "meta"
	bucketTenants   = "tenants"   // tenant ID: tenantRecord
	bucketSandboxes = "sandboxes" // sandbox ID: sandboxRecord, in the database of what is alive
	bucketSnapshots = "snapshots" // snapshot ID: snapshotRecord
	bucketTemplates = "templates" // template ID: templateRecord
	bucketKeys      = "keys"      // scope NUL key: keyRecord

	metaFormat = "format"
	metaAudit  = "audit" // auditHead
	metaOwner  = "owner" // ownerRecord

	// storeFormat is counted up when an older program could not understand the records.
	storeFormat = 2
)

func buckets() []string {
	return []string{bucketMeta, bucketTenants, bucketSandboxes, bucketSnapshots, bucketTemplates, bucketKeys}
}

// store is the embedded database. Its methods may be called concurrently.
type store struct {
	db *bbolt.DB

	mu      sync.Mutex
	pending []*write
	leading bool // somebody is at it
}

// write is a change that waits to be made.
type write struct {
	change func(*bbolt.Tx) error
	done   chan error
}

// openStore opens or creates the database in dir. With scratch, it does not outlive the process and
// nothing waits for the disk.
func openStore(dir string, scratch bool) (*store, error) {
	return openDatabase(filepath.Join(dir, databaseName), scratch)
}

// openLiving opens or creates the database of what is alive. Those of former boots are removed unread: nothing that
// they list has outlived that, and a crash of the host may have spoilt them.
func openLiving(dir string) (s *store, note string, err error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, "", fmt.Errorf("tell one boot of the host from another: %w", err)
	}
	name := filepath.Join(dir, strings.Replace(livingPattern, "*", strings.TrimSpace(string(boot)), 1))
	all, err := filepath.Glob(filepath.Join(dir, livingPattern))
	for _, other := range all {
		if other != name {
			err = errors.Join(err, os.Remove(other))
		}
	}
	if err != nil {
		return nil, "", fmt.Errorf("remove the list of sandboxes of a former boot: %w", err)
	}
	if s, err = openDatabase(name, true); err == nil || CodeOf(err) == CodeConflict {
		return s, "", err
	}
	note = fmt.Sprintf("the list of sandboxes cannot be read, and is begun anew: %v", err)
	if err := os.Remove(name); err != nil {
		return nil, "", fmt.Errorf("begin the list of sandboxes anew: %w", err)
	}
	s, err = openDatabase(name, true)
	return s, note, err
}

func openDatabase(name string, scratch bool) (_ *store, err error) {
	// The library panics when pages of the file make no sense.
	defer func() {
		if p := recover(); p != nil {
			err = unreadable(name, fmt.Errorf("%v", p))
		}
	}()
	db, err := bbolt.Open(name, 0o600, &bbolt.Options{Timeout: time.Second, NoSync: scratch, NoGrowSync: scratch, NoFreelistSync: true})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, refuse(CodeConflict, "open", "stop the other one, or use another state directory", "another runtime has the database open")
	}
	if err != nil {
		return nil, unreadable(name, err)
	}
	s := &store{db: db}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(unreadable(name, err), db.Close())
	}
	return s, nil
}

func unreadable(name string, err error) error {
	return &Error{Code: CodeInternal, Op: "open", Cause: "the database " + filepath.Base(name) + " cannot be opened: " + err.Error(),
		Remedy: "move it away to begin with an empty one; tenants, tokens and the list of snapshots are in runtime.db", Err: err}
}

func (s *store) prepare() error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets() {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		meta := tx.Bucket([]byte(bucketMeta))
		raw := meta.Get([]byte(metaFormat))
		if raw == nil {
			return meta.Put([]byte(metaFormat), fmt.Appendf(nil, "%d", storeFormat))
		}
		var format int
		if err := json.Unmarshal(raw, &format); err != nil || format < 1 {
			return fmt.Errorf("its format is %q", raw)
		}
		if format > storeFormat {
			return fmt.Errorf("its format is %d, and this program knows %d: it is of a newer version", format, storeFormat)
		}
		return meta.Put([]byte(metaFormat), fmt.Appendf(nil, "%d", storeFormat))
	})
}

func (s *store) close() error { return s.db.Close() }

// update makes a change and returns when it is on disk. Changes that come while another one is being
// written share the next wait for the disk, so that many sandboxes can begin and end at the same time;
// the library's own Batch has a lone caller wait for others.
func (s *store) update(change func(*bbolt.Tx) error) error {
	w := &write{change, make(chan error, 1)}
	s.mu.Lock()
	s.pending = append(s.pending, w)
	lead := !s.leading
	s.leading = true
	s.mu.Unlock()
	for lead {
		s.mu.Lock()
		batch := s.pending
		s.pending = nil
		if len(batch) == 0 {
			s.leading, lead = false, false
		}
		s.mu.Unlock()
		s.commit(batch)
	}
	return <-w.done
}

// commit makes changes, all or none.
func (s *store) commit(batch []*write) {
	if len(batch) == 0 {
		return
	}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for _, w := range batch {
			if err := w.change(tx); err != nil {
				return err
			}
		}
		return nil
	})
	for _, w := range batch {
		w.done <- err
	}
}

// put stores v once it is on disk.
func (s *store) put(bucket, key string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", bucket, err)
	}
	err = s.update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte(key), raw) })
	if err != nil {
		return fmt.Errorf("store %s: %w", bucket, err)
	}
	return nil
}

// putIn is put as a part of a change.
func putIn(tx *bbolt.Tx, bucket, key string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", bucket, err)
	}
	return tx.Bucket([]byte(bucket)).Put([]byte(key), raw)
}

func (s *store) remove(bucket string, keys ...string) error {
	if len(keys) == 0 {
		return nil
	}
	err := s.update(func(tx *bbolt.Tx) error {
		for _, key := range keys {
			if err := tx.Bucket([]byte(bucket)).Delete([]byte(key)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove from %s: %w", bucket, err)
	}
	return nil
}

// record is what a bucket holds. check refuses what this program would not have written.
type record interface{ check(key string) error }

// decode reads one record. It takes no unknown fields: the format is counted up with them.
func decode[T record](key string, raw []byte) (T, error) {
	var v T
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	err := dec.Decode(&v)
	if err == nil {
		if _, end := dec.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("there is something after it")
		}
	}
	if err == nil {
		err = v.check(key)
	}
	if err != nil {
		return v, fmt.Errorf("record %q: %w", key, err)
	}
	return v, nil
}

// get reads one record; ok tells whether there is one.
func get[T record](s *store, bucket, key string) (v T, ok bool, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		raw := tx.Bucket([]byte(bucket)).Get([]byte(key))
		if raw == nil {
			return nil
		}
		ok = true
		v, err = decode[T](key, raw)
		return err
	})
	return v, ok, err
}

// all reads a bucket in the order of its keys. A record that cannot be read is passed to bad.
func all[T record](s *store, bucket string, bad func(key string, err error)) (map[string]T, error) {
	found := map[string]T{}
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucket)).ForEach(func(k, raw []byte) error {
			v, err := decode[T](string(k), raw)
			if err != nil {
				bad(string(k), err)
				return nil
			}
			found[string(k)] = v
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", bucket, err)
	}
	return found, nil
}

// lockDir takes the lock of a state directory. Closing the file lets go of it, and so does the end of
// the process.
func lockDir(dir string) (*os.File, error) {
	f, err := filelock.Open(filepath.Join(dir, "lock"), filelock.Exclusive, 0o600)
	if errors.Is(err, filelock.ErrHeld) {
		return nil, refuse(CodeConflict, "open", "stop the other one, or use another state directory", "another runtime uses this state directory")
	}
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	return f, nil
}
