package runtime

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"
)

// The audit log is a file of JSON lines. Each holds the digest of the line before it and its own, so
// that a line cannot be changed, added or taken away in the middle. What is cut off at the end shows
// by the head that the database holds.
const (
	auditName = "audit.jsonl"
	// maxAuditLine bounds what is read as one line.
	maxAuditLine = 1 << 20
)

// AuditEntry is one line of the audit log: who did what, on which sandbox, and how that went.
type AuditEntry struct {
	Seq     int64     `json:"seq"` // from 1
	Time    time.Time `json:"time"`
	Tenant  string    `json:"tenant,omitempty"`
	Session string    `json:"session,omitempty"`
	Op      string    `json:"op"`
	Sandbox string    `json:"sandbox,omitempty"`
	// What holds the op's particulars, such as the command that was run, each cut off at 256 bytes.
	What map[string]string `json:"what,omitempty"`
	// Result is "ok" or the code of an error, Cause that of the error.
	Result     string `json:"result"`
	Cause      string `json:"cause,omitempty"`
	DurationMS int64  `json:"duration_ms,omitempty"`
	// Prev is the Hash of the entry before; Hash is the SHA-256, in hexadecimal, of this one's JSON
	// with an empty Hash.
	Prev string `json:"prev"`
	Hash string `json:"hash"`
}

func (e AuditEntry) digest() (string, error) {
	e.Hash = ""
	raw, err := json.Marshal(e)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

// genesis is the Prev of the first entry.
func genesis() string { return hex.EncodeToString(make([]byte, sha256.Size)) }

// auditLog appends. Its methods may be called concurrently; all do nothing on nil.
type auditLog struct {
	store *store

	f *os.File

	syncing sync.Mutex // is taken before mu
	synced  int64      // Seq that is on disk, and in the database

	mu   sync.Mutex
	head auditHead
	err  error // that writing has met
}

// openAudit opens the log in dir, and mends what a process left that was killed while it wrote. It refuses one whose
// end is not what the database knows.
func openAudit(dir string, store *store) (_ *auditLog, note string, err error) {
	f, err := os.OpenFile(filepath.Join(dir, auditName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, "", fmt.Errorf("open the audit log: %w", err)
	}
	a := &auditLog{store: store, f: f, head: auditHead{Hash: genesis()}}
	whole, torn, err := a.last()
	if err == nil && torn > 0 {
		note = fmt.Sprintf("the audit log ended in %d bytes of an entry that was not written whole; they are cut off", torn)
		err = f.Truncate(whole)
	}
	if err == nil {
		_, err = f.Seek(whole, io.SeekStart)
	}
	var known auditHead
	if err == nil {
		known, _, err = get[auditHead](store, bucketMeta, metaAudit)
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("open the audit log: %w", err), f.Close())
	}
	// The file is synced before the database, so a crash leaves it behind the file, never ahead.
	if known.Seq > a.head.Seq || known.Seq == a.head.Seq && known.Seq > 0 && known.Hash != a.head.Hash {
		err := fmt.Errorf("the audit log ends with entry %d, but entry %d was written: its end was cut off or changed; "+
			"restore %s from a copy, or move the state directory away", a.head.Seq, known.Seq, auditName)
		return nil, "", errors.Join(err, f.Close())
	}
	a.synced = a.head.Seq
	return a, note, nil
}

// last finds the last whole entry, reading from the end. It returns where that ends and how many
// bytes follow.
func (a *auditLog) last() (whole, torn int64, err error) {
	size, err := a.f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return 0, 0, err
	}
	tail := make([]byte, min(size, 2*maxAuditLine))
	if _, err := a.f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return 0, 0, err
	}
	end := bytes.LastIndexByte(tail, '\n')
	torn = int64(len(tail) - 1 - end)
	if end < 0 {
		if size > int64(len(tail)) {
			return 0, 0, errors.New("its end is not a line")
		}
		return 0, size, nil
	}
	line := tail[:end]
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	e, err := decodeAudit(line)
	if err != nil {
		return 0, 0, fmt.Errorf("its last entry: %w", err)
	}
	a.head = auditHead{Seq: e.Seq, Hash: e.Hash}
	return size - torn, torn, nil
}

// decodeAudit reads one line and checks its own digest.
func decodeAudit(line []byte) (AuditEntry, error) {
	var e AuditEntry
	if err := json.Unmarshal(line, &e); err != nil {
		return e, fmt.Errorf("it is not JSON: %w", err)
	}
	sum, err := e.digest()
	if err != nil {
		return e, err
	}
	if sum != e.Hash {
		return e, errors.New("it was changed: its digest does not match")
	}
	// The digest is of what was understood; the line must say nothing else.
	again, err := json.Marshal(e)
	if err != nil || !bytes.Equal(again, line) {
		return e, errors.New("it was changed: it is not written as entries are")
	}
	return e, nil
}

func (a *auditLog) append(e AuditEntry) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	e.Seq, e.Prev = a.head.Seq+1, a.head.Hash
	e.Time = e.Time.UTC().Round(0)
	sum, err := e.digest()
	if err == nil {
		e.Hash = sum
		var line []byte
		if line, err = json.Marshal(e); err == nil {
			err = a.write(append(line, '\n'))
		}
	}
	if err != nil {
		a.err = errors.Join(a.err, err)
		return
	}
	a.head = auditHead{Seq: e.Seq, Hash: e.Hash}
}

// write appends a line, whole or not at all. The caller has a.mu.
func (a *auditLog) write(line []byte) error {
	n, err := a.f.Write(line)
	if err == nil || n == 0 {
		return err
	}
	// A disk that is full has taken a part, after which the next line would not be one.
	at, seekErr := a.f.Seek(int64(-n), io.SeekCurrent)
	if seekErr != nil {
		return errors.Join(err, seekErr)
	}
	return errors.Join(err, a.f.Truncate(at))
}

// sync brings what was appended to the disk, and then its head to the database. Entries may be
// appended meanwhile.
func (a *auditLog) sync() error {
	if a == nil {
		return nil
	}
	a.syncing.Lock()
	defer a.syncing.Unlock()
	a.mu.Lock()
	head, err := a.head, a.err
	a.err = nil
	a.mu.Unlock()
	if head.Seq == a.synced {
		return err
	}
	if syncErr := a.f.Sync(); syncErr != nil {
		return errors.Join(err, syncErr)
	}
	if putErr := a.store.put(bucketMeta, metaAudit, head); putErr != nil {
		return errors.Join(err, putErr)
	}
	a.synced = head.Seq
	return err
}

func (a *auditLog) close() error {
	if a == nil {
		return nil
	}
	return errors.Join(a.sync(), a.f.Close())
}

// AuditReport is what VerifyAudit found.
type AuditReport struct {
	Entries int64 `json:"entries"`
	// Head is the digest of the last entry.
	Head string `json:"head"`
	// Torn is how many bytes follow that are no whole entry: the process was killed while it wrote, or
	// is writing.
	Torn int64 `json:"torn,omitempty"`
	// InUse tells that a runtime has the directory open, so that what was cut off at the end did not show.
	InUse bool `json:"in_use,omitempty"`
}

// VerifyAudit checks the audit log of a state directory: that every entry is as it was written, that
// none is missing, and, unless a runtime has the directory open, that none is cut off at the end. It
// returns what is whole up to the first fault; the error, of CodeConflict, names the line.
func VerifyAudit(stateDir string) (AuditReport, error) {
	const op = "verify audit"
	f, err := os.Open(filepath.Join(stateDir, auditName))
	if err != nil {
		code := CodeInternal
		if errors.Is(err, fs.ErrNotExist) {
			code = CodeNotFound
		}
		return AuditReport{}, &Error{Code: code, Op: op, Cause: err.Error(), Remedy: "name a state directory of a runtime", Err: err}
	}
	defer f.Close()
	head, inUse, err := storedHead(stateDir)
	if err != nil {
		return AuditReport{}, &Error{Code: CodeInternal, Op: op, Cause: err.Error(), Err: err}
	}
	report, err := verify(f, head)
	report.InUse = inUse
	if err != nil {
		return report, &Error{Code: CodeConflict, Op: op, Cause: err.Error(), Err: err,
			Remedy: "compare with a copy; entries before that are as they were written"}
	}
	return report, nil
}

// storedHead is the head in the database, or nothing if there is none or a runtime is using it.
func storedHead(dir string) (head auditHead, inUse bool, err error) {
	name := filepath.Join(dir, databaseName)
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return head, false, nil
	}
	db, err := bbolt.Open(name, 0o600, &bbolt.Options{ReadOnly: true, Timeout: 100 * time.Millisecond})
	if errors.Is(err, bberrors.ErrTimeout) {
		return head, true, nil
	}
	if err != nil {
		return head, false, fmt.Errorf("open %s: %w", databaseName, err)
	}
	defer func() { _ = db.Close() }() // it was only read
	err = db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket([]byte(bucketMeta))
		if meta == nil {
			return nil
		}
		raw := meta.Get([]byte(metaAudit))
		if raw == nil {
			return nil
		}
		var err error
		head, err = decode[auditHead](metaAudit, raw)
		return err
	})
	return head, false, err
}

// verify reads a whole log. head, unless it is zero, must be an entry of it.
func verify(r io.Reader, head auditHead) (AuditReport, error) {
	report := AuditReport{Head: genesis()}
	br := bufio.NewReaderSize(r, 64<<10)
	found := head.Seq == 0
	for {
		line, err := readLine(br)
		if errors.Is(err, io.EOF) {
			report.Torn = int64(len(line))
			break
		}
		if err != nil {
			return report, fmt.Errorf("line %d: %w", report.Entries+1, err)
		}
		e, err := decodeAudit(line)
		switch {
		case err != nil:
		case e.Seq != report.Entries+1:
			err = fmt.Errorf("its number is %d: entries are missing or were moved", e.Seq)
		case e.Prev != report.Head:
			err = errors.New("it does not follow the one before it")
		case e.Seq == head.Seq && e.Hash != head.Hash:
			err = errors.New("it is another one than the database knows: the log was written anew")
		}
		if err != nil {
			return report, fmt.Errorf("line %d: %w", report.Entries+1, err)
		}
		found = found || e.Seq == head.Seq
		report.Entries, report.Head = e.Seq, e.Hash
	}
	if !found {
		return report, fmt.Errorf("line %d: entries up to number %d are missing: the log was cut off", report.Entries+1, head.Seq)
	}
	return report, nil
}

// readLine reads a line without its end. What has no end is returned with io.EOF.
func readLine(br *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxAuditLine {
			return nil, errors.New("it is longer than any entry")
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return line, err
		}
		return line[:len(line)-1], nil
	}
}
