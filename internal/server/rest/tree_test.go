package rest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/archive"
	"github.com/aethervm/aether/internal/runtime"
)

func tarball(t *testing.T, name, data string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o640}); err != nil {
		t.Fatal(err)
	}
	_, err := io.WriteString(w, data)
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (s *site) testTrees(t *testing.T) {
	at := "/v1/sandboxes/" + s.create(t) + "/tree?path="
	report := call[archive.Report](t, s, "PUT", at+"/work", string(tarball(t, "d/f", "data")), 200)
	if report.Files != 1 || report.Bytes != 4 {
		t.Errorf("%+v", report)
	}
	res, raw := s.send(t, s.request(t, "GET", at+"/work/d", nil))
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "application/x-tar" || !strings.Contains(res.Trailer.Get(TreeTrailer), `"bytes":4`) {
		t.Errorf("%s, %v, %v", res.Status, res.Header, res.Trailer)
	}
	h, err := tar.NewReader(bytes.NewReader(raw)).Next()
	if err != nil || h.Name != "f" || h.Mode != 0o640 {
		t.Errorf("%+v, %v", h, err)
	}
	s.refused(t, "PUT", at+"/work", string(tarball(t, "../../etc/passwd", "x")), 422, runtime.CodeInvalid)
	s.refused(t, "GET", at+"/none", nil, 404, runtime.CodeNotFound)
	s.refused(t, "GET", at+"/etc/os-release", nil, 422, runtime.CodeInvalid)
}

// TestTrailerIsShort enough for a real client, whatever names a sandbox has.
func TestTrailerIsShort(t *testing.T) {
	for _, text := range []string{"\x00", "&", "\n", "\u00e9", "\\"} {
		var r archive.Report
		for range 32 {
			r.Skipped = append(r.Skipped, archive.Skipped{Path: strings.Repeat(text, 256), Why: strings.Repeat(text, 256)})
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", TreeTrailer)
			_, _ = io.WriteString(w, "body")
			w.Header().Set(TreeTrailer, trailer(r))
		}))
		res, err := http.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
		var back archive.Report
		if err = errors.Join(err, json.Unmarshal([]byte(res.Trailer.Get(TreeTrailer)), &back)); err != nil || len(back.Skipped)+back.SkippedMore != 32 {
			t.Errorf("%q: %d and %d more, %v", text, len(back.Skipped), back.SkippedMore, err)
		}
		server.Close()
	}
}
