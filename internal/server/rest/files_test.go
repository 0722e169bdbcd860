package rest

import (
	"bytes"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/runtime"
)

func (s *site) testFiles(t *testing.T) {
	at := "/v1/sandboxes/" + s.create(t)
	text := strings.Repeat("0123456789", 50_000)
	req := s.request(t, "PUT", at+"/files?path=/deep/f&mode=750", strings.NewReader(text))
	req.Header.Set("Content-Type", "application/octet-stream")
	if res, raw := s.send(t, req); res.StatusCode != 200 || !strings.Contains(string(raw), `"size":500000`) {
		t.Fatalf("upload: %s %s", res.Status, raw)
	}
	get := func(method, ranges string) (answer, string) {
		t.Helper()
		req := s.request(t, method, at+"/files?path=/deep/f", nil)
		if ranges != "" {
			req.Header.Set("Range", ranges)
		}
		res, raw := s.send(t, req)
		return res, string(raw)
	}
	if res, got := get("GET", ""); res.StatusCode != 200 || got != text || res.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("download: %s, %d bytes", res.Status, len(got))
	}
	if res, _ := get("HEAD", ""); res.StatusCode != 200 || res.ContentLength != 500_000 {
		t.Errorf("head: %s, %d", res.Status, res.ContentLength)
	}
	for ranges, want := range map[string]string{"bytes=0-4": "01234", "bytes=499995-": "56789", "bytes=-3": "789", "bytes=100001-100003": "123"} {
		if res, got := get("GET", ranges); res.StatusCode != 206 || got != want {
			t.Errorf("%s: %s %q", ranges, res.Status, got)
		}
	}
	if res, got := get("GET", "bytes=1-2,5-6"); res.StatusCode != 200 || got != text {
		t.Errorf("two ranges: %s, %d bytes; want the whole", res.Status, len(got))
	}
	if res, _ := get("GET", "bytes=600000-"); res.StatusCode != 416 {
		t.Errorf("a range behind the end: %s", res.Status)
	}
	list := call[struct{ Entries []runtime.Entry }](t, s, "GET", at+"/entries?path=/deep", nil, 200)
	if len(list.Entries) != 2 || list.Entries[1].Name != "f" || list.Entries[1].Mode != "-rwxr-x---" {
		t.Errorf("entries: %+v", list)
	}
	req = s.request(t, "PUT", at+"/files?path=/e", strings.NewReader("a b c"))
	s.send(t, req)
	call[runtime.WriteResult](t, s, "PATCH", at+"/files?path=/e", Edits{[]runtime.Edit{{Old: "b", New: "B"}}}, 200)
	if _, raw := s.send(t, s.request(t, "GET", at+"/files?path=/e", nil)); string(raw) != "a B c" {
		t.Errorf("edited: %q", raw)
	}
	s.refused(t, "PATCH", at+"/files?path=/e", Edits{[]runtime.Edit{{Old: "z", New: "B"}}}, 409, runtime.CodeConflict)
	call[any](t, s, "DELETE", at+"/files?path=/e", nil, 204)
	s.refused(t, "GET", at+"/files?path=/e", nil, 404, runtime.CodeNotFound)
	s.refused(t, "GET", at+"/files?path=/deep", nil, 422, runtime.CodeInvalid)
	s.refused(t, "GET", at+"/files?path=relative", nil, 422, runtime.CodeInvalid)
	s.refused(t, "GET", at+"/files?path=/a/../../b", nil, 422, runtime.CodeInvalid)
	s.refused(t, "GET", at+"/files", nil, 422, runtime.CodeInvalid)
}

// TestBodyIsBounded also where the client does not say how long it is.
func TestBodyIsBounded(t *testing.T) {
	s := serve(t, nil)
	at := "/v1/sandboxes/" + s.create(t)
	body := append([]byte(`{"shell":"`), bytes.Repeat([]byte("a"), requestSize)...)
	s.refused(t, "POST", at+"/run", struct{ *bytes.Reader }{bytes.NewReader(body)}, 413, runtime.CodeInvalid)
}
