package console

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, path string, change func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w
}

func TestFiles(t *testing.T) {
	for path, kind := range map[string]string{
		Path: "text/html", Path + "index.html": "text/html", Path + "app.js": "text/javascript", Path + "console.css": "text/css", Path + "icon.svg": "image/svg+xml",
	} {
		w := get(t, path, nil)
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), kind) || w.Body.Len() == 0 {
			t.Errorf("%s: %d %s, %d bytes", path, w.Code, w.Header().Get("Content-Type"), w.Body.Len())
		}
		again := get(t, path, func(r *http.Request) { r.Header.Set("If-None-Match", w.Header().Get("Etag")) })
		if again.Code != http.StatusNotModified || again.Body.Len() != 0 {
			t.Errorf("%s again: %d, %d bytes", path, again.Code, again.Body.Len())
		}
	}
	for _, path := range []string{Path + "nothing", Path + "../console.go", Path + "static/app.js", Path + "app.js/", "/other", "/console"} {
		if w := get(t, path, nil); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if w := get(t, Path, func(r *http.Request) { r.Method = http.MethodPost }); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

// Every answer, errors too, has the headers that keep the page to itself.
func TestHeaders(t *testing.T) {
	for _, path := range []string{Path, Path + "app.js", Path + "nothing"} {
		h := get(t, path, nil).Header()
		for name, want := range map[string]string{
			"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := h.Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: the policy has no %s", path, want)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") || strings.Contains(csp, "http") {
			t.Errorf("%s: the policy is loose: %s", path, csp)
		}
	}
}

// The page needs nothing from elsewhere, and has no way to make markup of text.
func TestPageIsSelfContained(t *testing.T) {
	inline := regexp.MustCompile(`(?i)<script(?:>|[^>]*>[^<])|\son[a-z]+\s*=|\sstyle\s*=|<style|javascript:`)
	sinks := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|createContextualFragment|setHTML|srcdoc`)
	elsewhere := regexp.MustCompile(`(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}`)
	for name, f := range load() {
		text := string(f.data)
		if strings.HasSuffix(name, ".html") {
			if m := inline.FindString(text); m != "" {
				t.Errorf("%s has inline code: %s", name, m)
			}
		}
		if m := sinks.FindString(text); m != "" {
			t.Errorf("%s makes markup or code of text: %s", name, m)
		}
		for _, m := range elsewhere.FindAllString(text, -1) {
			if m != "http://www.w3.org" { // a namespace, not an address
				t.Errorf("%s names %s", name, m)
			}
		}
		if f.kind == "" {
			t.Errorf("%s has no content type", name)
		}
	}
}
