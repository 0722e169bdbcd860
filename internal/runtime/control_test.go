package runtime

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestPauseAndStats(t *testing.T) {
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	id := s.mustCreate(t, SandboxSpec{})
	if st, err := s.Stats(t.Context(), id); err != nil || st.MemoryBytes == 0 {
		t.Errorf("%+v, %v", st, err)
	}
	active := s.boxes[id].active
	time.Sleep(2 * time.Millisecond)
	if _, err := s.Stats(t.Context(), id); err != nil || s.boxes[id].active != active {
		t.Errorf("to look was activity (%v)", err)
	}
	info, err := s.Pause(t.Context(), id)
	if err != nil || info.State != StatePaused {
		t.Errorf("%+v, %v", info, err)
	}
	_, err = s.Stats(t.Context(), id)
	want(t, "stats of a paused one", err, CodeConflict)
	if info, err := s.Inspect(t.Context(), id); err != nil || info.State != StatePaused {
		t.Errorf("to look let it go on: %+v, %v", info, err)
	}
	if info, err = s.Resume(t.Context(), id); err != nil || info.State != StateRunning {
		t.Errorf("%+v, %v", info, err)
	}
	_, err = s.Pause(t.Context(), "sbnone")
	want(t, "pause nothing", err, CodeNotFound)
	w.d.NoPause = true
	other := s.mustCreate(t, SandboxSpec{})
	_, err = s.Pause(t.Context(), other)
	want(t, "pause where it cannot be", err, CodeUnsupported)
	if info, err := s.Resume(t.Context(), other); err != nil || info.State != StateRunning {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestSessionOf(t *testing.T) {
	w := open(t, nil)
	one, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	s := w.session(t, SessionSpec{ID: "b"})
	w.session(t, SessionSpec{ID: "a"})
	id := s.mustCreate(t, SandboxSpec{})
	p := s.mustStart(t, id, "sleep 1000")
	for _, what := range []string{id, p} {
		if found, err := w.SessionOf(s.tenant.ID, what); err != nil || found != s {
			t.Errorf("%s: %v, %v", what, found, err)
		}
		_, err := w.SessionOf(one.ID, what)
		want(t, "of another tenant", err, CodeNotFound)
	}
	if err := s.Kill(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if found, err := w.SessionOf(s.tenant.ID, id); err != nil || found != s {
		t.Errorf("gone: %v, %v", found, err)
	}
	if list := w.Sessions(s.tenant.ID); len(list) != 2 || list[0].ID() != "a" {
		t.Errorf("%d sessions", len(list))
	}
}

func TestSetBudget(t *testing.T) {
	w := open(t, nil)
	one, token, err := w.CreateTenant(t.Context(), TenantSpec{Name: "one", Budget: Budget{Sandboxes: 1}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.OpenSession(t.Context(), one.ID, SessionSpec{})
	if err != nil {
		t.Fatal(err)
	}
	s.mustCreate(t, SandboxSpec{})
	_, err = s.Create(t.Context(), CreateRequest{})
	want(t, "a second one", err, CodeBudget)
	if got, err := w.SetBudget(t.Context(), one.ID, Budget{Sandboxes: 2}); err != nil || got.Budget.Sandboxes != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	s.mustCreate(t, SandboxSpec{})
	if state, err := w.TenantBudget(one.ID); err != nil || len(state.Lines) != 1 || state.Lines[0].Left != 0 || state.Lines[0].Used != 2 {
		t.Errorf("%+v, %v", state, err)
	}
	_, err = w.SetBudget(t.Context(), one.ID, Budget{Sandboxes: -1})
	want(t, "a negative one", err, CodeInvalid)
	w.shut(t)
	w.reopen(t)
	if again, err := w.Authenticate(t.Context(), token); err != nil || again.Budget.Sandboxes != 2 {
		t.Errorf("after a restart: %+v, %v", again, err)
	}
}

func TestTransfer(t *testing.T) {
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	id := s.mustCreate(t, SandboxSpec{})
	text := strings.Repeat("0123456789", 20_000)
	res, err := s.Upload(t.Context(), UploadRequest{Sandbox: id, Path: "/a/b/f", Mode: 0o600}, strings.NewReader(text))
	if err != nil || res.Size != int64(len(text)) {
		t.Fatalf("%+v, %v", res, err)
	}
	if e, err := s.Stat(t.Context(), id, "/a/b/f"); err != nil || e.Size != int64(len(text)) || e.Mode != "-rw-------" || e.Type != "file" {
		t.Errorf("%+v, %v", e, err)
	}
	for _, c := range []struct {
		offset, size int64
		want         string
	}{{0, 0, text}, {199_995, 0, "56789"}, {11, 3, "123"}, {199_998, 100, "89"}, {500_000, 0, ""}, {500_000, 5, ""}} {
		var got bytes.Buffer
		err := s.Download(t.Context(), DownloadRequest{Sandbox: id, Path: "/a/b/f", Offset: c.offset, Size: c.size}, &got)
		if err != nil || got.String() != c.want {
			t.Errorf("%d+%d: %d bytes, %v", c.offset, c.size, got.Len(), err)
		}
	}
	oops := errors.New("the connection broke")
	_, err = s.Upload(t.Context(), UploadRequest{Sandbox: id, Path: "/a/b/f"}, io.MultiReader(strings.NewReader("x"), brokenReader{oops}))
	if !errors.Is(err, oops) {
		t.Errorf("a reader that fails: %v", err)
	}
	var got bytes.Buffer
	if err := s.Download(t.Context(), DownloadRequest{Sandbox: id, Path: "/a/b/f"}, &got); err != nil || got.String() != text {
		t.Errorf("the file has changed: %d bytes, %v", got.Len(), err)
	}
	if err := s.Download(t.Context(), DownloadRequest{Sandbox: id, Path: "/a/b/f"}, brokenWriter{oops}); !errors.Is(err, oops) {
		t.Errorf("a writer that fails: %v", err)
	}
	if err := s.Remove(t.Context(), id, "/a/b/f"); err != nil {
		t.Error(err)
	}
	_, err = s.Stat(t.Context(), id, "/a/b/f")
	wantCode(t, err, CodeNotFound)
	err = s.Download(t.Context(), DownloadRequest{Sandbox: id, Path: "rel"}, &got)
	wantCode(t, err, CodeInvalid)
	reader := w.session(t, SessionSpec{ID: "reads", Capabilities: []Capability{CanRead}})
	_, err = reader.Upload(t.Context(), UploadRequest{Sandbox: id, Path: "/f"}, strings.NewReader(""))
	want(t, "write without exec", err, CodeDenied)
	want(t, "remove without exec", reader.Remove(t.Context(), id, "/f"), CodeDenied)
}

// TestUploadThatFails has the system give up while it reads still: what it reads then is nobody's.
func TestUploadThatFails(t *testing.T) {
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	id := s.mustCreate(t, SandboxSpec{})
	full, let, read := errors.New("no space left on device"), make(chan struct{}), make(chan error, 2)
	w.d.OnWrite = func(r io.Reader) error {
		began := make(chan struct{})
		go func() {
			close(began)
			_, err := r.Read(make([]byte, 10))
			read <- err
			_, err = r.Read(make([]byte, 10))
			read <- err
		}()
		<-began
		return full
	}
	from := readerFunc(func(p []byte) (int, error) { <-let; return len(p), nil })
	_, err := s.Upload(t.Context(), UploadRequest{Sandbox: id, Path: "/f"}, from)
	if !errors.Is(err, full) {
		t.Error(err)
	}
	close(let)
	if err := <-read; err != nil && !errors.Is(err, errEnough) { // it may have begun or not
		t.Error(err)
	}
	if err := <-read; err == nil {
		t.Error("it goes on reading")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestResumeThatFails announces nothing.
func TestResumeThatFails(t *testing.T) {
	w := open(t, nil)
	tenant, err := w.Local(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.d.OnResume = func() error { return errors.New("the guest refuses") }
	s := w.session(t, SessionSpec{})
	id := s.mustCreate(t, SandboxSpec{})
	if _, err := s.Pause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	start, err := w.Events(t.Context(), tenant.ID, -1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Resume(t.Context(), id)
	wantCode(t, err, CodeInternal)
	if got, _ := w.types(t, tenant.ID, start.Last); len(got) > 0 {
		t.Errorf("events: %v", got)
	}
}

func wantCode(t *testing.T, err error, code Code) {
	t.Helper()
	if CodeOf(err) != code {
		t.Errorf("%v, want %s", err, code)
	}
}

type brokenReader struct{ err error }

func (r brokenReader) Read([]byte) (int, error) { return 0, r.err }

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }
