package runtime

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

func writeJSONLine(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(raw, '\n'))
	return err
}

func TestOneRuntimeADirectory(t *testing.T) {
	w := open(t, nil)
	_, err := Open(t.Context(), w.cfg)
	if e := wantError(t, "second", err, CodeConflict); !strings.Contains(e.Cause, "another runtime") {
		t.Error(e)
	}
	w.shut(t)
	w.reopen(t)
}

func TestPrivateDirectory(t *testing.T) {
	noLeaks(t)
	w := open(t, func(c *Config) { c.StateDir = "" })
	dir := w.scratch.Dir
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	if _, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box}); err != nil {
		t.Fatal(err)
	}
	w.shut(t)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("its directory is left: %v", err)
	}
}

// TestAfterKill opens what a runtime that was killed has left: a copy of the state directory of one
// that is running.
func TestAfterKill(t *testing.T) {
	noLeaks(t)
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	kept, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box, Name: "kept"})
	if err != nil {
		t.Fatal(err)
	}
	lost, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box, Name: "lost"})
	if err != nil {
		t.Fatal(err)
	}
	_, token, err := w.CreateTenant(t.Context(), TenantSpec{Name: "other"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), CreateRequest{Key: "k"}); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(w.dir, snapshotsName, "sn5555555555", dataName), 0o700); err != nil {
		t.Fatal(err)
	}

	dead := open(t, nil)
	dead.shut(t)
	if err := os.RemoveAll(dead.cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dead.cfg.StateDir, os.DirFS(w.cfg.StateDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dead.cfg.StateDir, snapshotsName, lost.ID)); err != nil {
		t.Fatal(err)
	}
	dead.d.Orphan(2)
	// The snapshots' places are those of the directory that was copied.
	moveSnapshots(t, dead.cfg.StateDir, w.cfg.StateDir)
	dead.reopen(t)
	found := dead.Recovered()
	if len(found.Orphans) != 2 || found.Orphans[0].Sandbox != box || found.Swept["gvisor"] != 2 || found.Snapshots != 1 ||
		strings.Join(found.Lost, " ") != strings.Join(sorted(lost.ID, "sn5555555555"), " ") || len(found.Notes) != 0 {
		t.Errorf("%+v", found)
	}
	if tn, err := dead.Authenticate(t.Context(), token); err != nil || tn.Name != "other" {
		t.Errorf("%+v, %v", tn, err)
	}
	s = dead.session(t, SessionSpec{})
	list, err := s.Snapshots(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != kept.ID {
		t.Errorf("%+v, %v", list, err)
	}
	_, err = s.Inspect(t.Context(), box)
	want(t, "orphan", err, CodeNotFound)
	dead.shut(t)
	dead.reopen(t)
	if found := dead.Recovered(); len(found.Orphans) != 0 || found.Snapshots != 1 {
		t.Errorf("opened again: %+v", found)
	}
}

func sorted(a, b string) []string {
	if a > b {
		a, b = b, a
	}
	return []string{a, b}
}

func moveSnapshots(t *testing.T, dir, from string) {
	t.Helper()
	db, err := openStore(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer db.close()
	list, err := all[snapshotRecord](db, bucketSnapshots, func(key string, err error) { t.Error(key, err) })
	if err != nil {
		t.Fatal(err)
	}
	for id, r := range list {
		r.Saved.Ref = strings.Replace(r.Saved.Ref, from, dir, 1)
		if err := db.put(bucketSnapshots, id, r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestForeignDatabase(t *testing.T) {
	for name, content := range map[string]string{
		"no database": "hello",
		"zeros":       strings.Repeat("\x00", 64<<10),
		"pages":       strings.Repeat("\x01\x02\x03\x04", 16<<10),
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, databaseName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := openStore(dir, false)
		want(t, name, err, CodeInternal)
	}
	dir := t.TempDir()
	s, err := openStore(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.put(bucketMeta, metaFormat, storeFormat+1); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	_, err = openStore(dir, false)
	if e := wantError(t, "newer", err, CodeInternal); !strings.Contains(e.Cause, "newer version") {
		t.Error(e)
	}
}

// TestForeignSnapshot has a record name a directory that is not the runtime's.
func TestForeignSnapshot(t *testing.T) {
	for _, way := range []string{"", "up", "relative"} {
		w := open(t, nil)
		s := w.session(t, SessionSpec{})
		snap, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: s.mustCreate(t, SandboxSpec{})})
		if err != nil {
			t.Fatal(err)
		}
		w.shut(t)
		elsewhere := t.TempDir()
		ref := elsewhere
		if way == "up" {
			data := filepath.Join(w.snapshotDir(snap.ID), dataName)
			up, err := filepath.Rel(data, elsewhere)
			if err != nil {
				t.Fatal(err)
			}
			ref = data + "/" + up
		}
		if way == "relative" {
			ref = "snapshots"
		}
		db, err := openStore(w.cfg.StateDir, false)
		if err != nil {
			t.Fatal(err)
		}
		record, _, err := get[snapshotRecord](db, bucketSnapshots, snap.ID)
		record.Saved.Ref = ref
		if err := errors.Join(err, db.put(bucketSnapshots, snap.ID, record), db.close()); err != nil {
			t.Fatal(err)
		}
		w.reopen(t)
		if found := w.Recovered(); found.Snapshots != 0 || !slices.Equal(found.Lost, []string{snap.ID}) {
			t.Errorf("%s: %+v", ref, found)
		}
		if _, err := os.Stat(elsewhere); err != nil {
			t.Error(err)
		}
	}
}

func TestTokens(t *testing.T) {
	w := open(t, nil)
	tn, token, err := w.CreateTenant(t.Context(), TenantSpec{Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := w.Authenticate(t.Context(), token); err != nil || got.ID != tn.ID {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "aether_", token[:len(token)-1], token + "x", digestOf(token)} {
		_, err := w.Authenticate(t.Context(), bad)
		want(t, "bad token", err, CodeUnauthenticated)
	}
	fresh, err := w.NewToken(t.Context(), tn.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Authenticate(t.Context(), token)
	want(t, "former token", err, CodeUnauthenticated)
	if _, err := w.Authenticate(t.Context(), fresh); err != nil {
		t.Error(err)
	}
	_, _, err = w.CreateTenant(t.Context(), TenantSpec{Name: "t"})
	want(t, "same name", err, CodeConflict)
	for _, name := range []string{"", "a b", "local", strings.Repeat("x", 65)} {
		_, _, err = w.CreateTenant(t.Context(), TenantSpec{Name: name})
		want(t, name, err, CodeInvalid)
	}
	s, err := w.OpenSession(t.Context(), tn.ID, SessionSpec{})
	if err != nil {
		t.Fatal(err)
	}
	box := s.mustCreate(t, SandboxSpec{})
	if _, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box}); err != nil {
		t.Fatal(err)
	}
	if err := w.RemoveTenant(t.Context(), tn.ID); err != nil {
		t.Fatal(err)
	}
	if boxes, snapshots := w.d.Left(); boxes != 0 || snapshots != 0 {
		t.Errorf("%d sandboxes and %d snapshots are left", boxes, snapshots)
	}
	_, err = w.Authenticate(t.Context(), fresh)
	want(t, "removed", err, CodeUnauthenticated)
	w.shut(t)
	for _, name := range []string{databaseName, auditName} {
		raw, err := os.ReadFile(filepath.Join(w.cfg.StateDir, name))
		if err != nil || strings.Contains(string(raw), token) || strings.Contains(string(raw), fresh) {
			t.Errorf("%s holds a token (%v)", name, err)
		}
	}
}

// FuzzRecords feeds the decoders of what the database holds.
func FuzzRecords(f *testing.F) {
	digest := digestOf("x")
	tenant := tenantRecord{Tenant: Tenant{ID: "te2222222222", Name: "t", Capabilities: allCapabilities(), Created: time.Unix(0, 0).UTC()}, Tokens: []string{digest}}
	box := sandboxRecord{ID: "sb2222222222", Tenant: tenant.ID, Session: "s", System: "docker"}
	snap := snapshotRecord{SnapshotInfo: SnapshotInfo{ID: "sn2222222222", System: "docker", Kind: sandbox.SnapshotFull},
		Tenant: tenant.ID, Saved: sandbox.Snapshot{System: "docker", Kind: sandbox.SnapshotFull, Ref: "x"}}
	tm := templateRecord{TemplateInfo: TemplateInfo{ID: "tm2222222222", Name: "py", System: "aethervm", Digest: "sha256:x"}, Tenant: tenant.ID,
		Kept: sandbox.Template{System: "aethervm", Name: "rt2222222222.tm2222222222", Digest: "sha256:x", Spec: sandbox.Spec{Image: sandbox.Image{Digest: "sha256:x", Rootfs: "/x"}}}}
	if err := tm.check(tm.ID); err != nil {
		f.Fatal(err)
	}
	key := keyRecord{Op: "create", Request: digest, Answer: json.RawMessage(`{}`)}
	for name, v := range map[string]any{tenant.ID: tenant, box.ID: box, snap.ID: snap, tm.ID: tm, "k": key, "audit": auditHead{1, digest}} {
		raw, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(name, raw)
	}
	f.Add("x", []byte(`{"id":"x"} {}`))
	f.Fuzz(func(t *testing.T, key string, raw []byte) {
		if v, err := decode[tenantRecord](key, raw); err == nil && (v.ID != key || len(v.Tokens) > 0 && len(v.Tokens[0]) != 64) {
			t.Errorf("%+v", v)
		}
		if v, err := decode[sandboxRecord](key, raw); err == nil && v.ID != key {
			t.Errorf("%+v", v)
		}
		// Its ID becomes the name of a directory.
		if v, err := decode[snapshotRecord](key, raw); err == nil && (v.ID != key || strings.ContainsAny(v.ID, "/.")) {
			t.Errorf("%+v", v)
		}
		if v, err := decode[templateRecord](key, raw); err == nil && (v.ID != key || !keptRE.MatchString(v.Kept.Name)) {
			t.Errorf("%+v", v)
		}
		if v, err := decode[ownerRecord](key, raw); err == nil && len(v) != 12 {
			t.Errorf("%+v", v)
		}
		if v, err := decode[keyRecord](key, raw); err == nil && len(v.Request) != 64 {
			t.Errorf("%+v", v)
		}
		if v, err := decode[auditHead](key, raw); err == nil && v.Seq < 1 {
			t.Errorf("%+v", v)
		}
	})
}

// TestListOfSandboxes: nothing waits for its database, so it may be spoilt, and that of another boot is not read.
func TestListOfSandboxes(t *testing.T) {
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	s.mustCreate(t, SandboxSpec{})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(w.cfg.StateDir, livingPattern))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	former := filepath.Join(w.cfg.StateDir, strings.Replace(livingPattern, "*", "former", 1))
	for _, name := range []string{names[0], former} {
		if err := os.WriteFile(name, []byte(strings.Repeat("spoilt", 4096)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.reopen(t)
	if found := w.Recovered(); len(found.Orphans) != 0 || !slices.ContainsFunc(found.Notes, func(note string) bool {
		return strings.Contains(note, "list of sandboxes") && !strings.Contains(note, w.cfg.StateDir)
	}) {
		t.Errorf("%+v", found)
	}
	w.session(t, SessionSpec{}).mustCreate(t, SandboxSpec{})
	if left, err := filepath.Glob(filepath.Join(w.cfg.StateDir, livingPattern)); err != nil || !slices.Equal(left, names) {
		t.Errorf("%v, %v", left, err)
	}
}
