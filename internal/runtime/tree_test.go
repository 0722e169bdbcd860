package runtime

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/archive"
	"github.com/aethervm/aether/sandbox"
)

func tarball(t *testing.T, files map[string]string) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o640}); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, data)
	}
	_ = w.Close()
	return &b
}

func TestTrees(t *testing.T) {
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	report, err := s.UploadTree(t.Context(), TreeRequest{box, "/work"}, tarball(t, map[string]string{"a": "one", "d/b": "two"}))
	if err != nil || report.Files != 2 || report.Bytes != 6 {
		t.Errorf("%+v, %v", report, err)
	}
	if out := s.mustRun(t, box, "cat /work/d/b").Stdout; out != "two" {
		t.Errorf("%q", out)
	}
	var back bytes.Buffer
	report, err = s.DownloadTree(t.Context(), TreeRequest{box, "/work"}, &back)
	if err != nil || report.Files != 2 || !strings.Contains(back.String(), "d/b") {
		t.Errorf("%+v, %v", report, err)
	}
	broken := errors.New("broken")
	_, err = s.UploadTree(t.Context(), TreeRequest{box, "/work"}, io.MultiReader(strings.NewReader("x"), failingReader{broken}))
	if err == nil {
		t.Error("a broken source is no error")
	}
	_, err = s.UploadTree(t.Context(), TreeRequest{box, "/work"}, tarball(t, map[string]string{"../../etc/passwd": "x"}))
	want(t, "hostile", err, CodeInvalid)
	_, err = s.DownloadTree(t.Context(), TreeRequest{box, "/etc/os-release"}, io.Discard)
	want(t, "a file", err, CodeInvalid)
	_, err = s.DownloadTree(t.Context(), TreeRequest{box, "/none"}, io.Discard)
	want(t, "nothing", err, CodeNotFound)
	_, err = s.DownloadTree(t.Context(), TreeRequest{box, "relative"}, io.Discard)
	want(t, "relative", err, CodeInvalid)
	reader := w.session(t, SessionSpec{ID: "reader", Capabilities: []Capability{CanRead}})
	_, err = reader.UploadTree(t.Context(), TreeRequest{box, "/work"}, strings.NewReader(""))
	want(t, "no capability", err, CodeDenied)
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// What a sandbox says of a copy is bounded and may be nonsense.
func TestTreeReportIsHostile(t *testing.T) {
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	u, err := s.enter(t.Context(), "test", box, forReading)
	if err != nil {
		t.Fatal(err)
	}
	defer u.end()
	for _, c := range []struct {
		code            int
		report, failure string
	}{
		{0, "", ""}, {0, "{", ""}, {0, `{"bytes": -1}`, ""}, {1, "", ""}, {1, "", "nonsense"}, {1, "", `{"kind": "exist", "message": "x"}`},
		{1, "", `{"kind": "whatever", "message": "x"}`}, {255, `{"bytes": 1}`, `{}`},
	} {
		var report archive.Report
		if err := u.treeEnd("test", sandbox.Exit{Code: c.code}, nil, []byte(c.report), []byte(c.failure), &report); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}
