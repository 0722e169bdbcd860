package console

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/aethervm/aether/internal/testenv"
)

// browser is one tab of a headless Chromium that has opened the console. Whatever the page complains of, a policy that
// was broken above all, is an error of the test.
type browser struct {
	t    *testing.T
	ctx  context.Context
	shot int
	dir  string

	mu         sync.Mutex
	complaints []string
}

// watch is what runs in the page before its own scripts: it keeps what the policy has refused, and notes whether something
// that a guest wrote was run.
const watch = `
	window.violations = [];
	document.addEventListener("securitypolicyviolation", (e) => window.violations.push(e.violatedDirective + " " + e.blockedURI + " " + e.sample));
	window.pwned = 0;
	window.alert = window.confirm = window.prompt = () => { window.pwned++; };
`

// chromium finds the browser; the need is "CHROMIUM".
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	testenv.Require(t, "CHROMIUM", "there is no chromium in PATH; run `make testdeps`")
	return ""
}

func openBrowser(t *testing.T) *browser {
	t.Helper()
	// Whoever looks at the screenshots names a directory that stays.
	b := &browser{t: t, dir: os.Getenv("SCREENSHOTS")}
	if b.dir == "" {
		b.dir = t.ArtifactDir()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	ctx, endAll := chromedp.NewExecAllocator(ctx, chromedp.ExecPath(chromium(t)), chromedp.Headless, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.NoSandbox, // it shows our own pages, and CI is root
		chromedp.DisableGPU,
		chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.WindowSize(1440, 900),
	)
	t.Cleanup(endAll)
	ctx, end := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits until the browser has ended
		end()
	})
	b.ctx = ctx
	b.do() // starts it
	err := chromedp.Listen(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *log.EventEntryAdded:
			if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
				b.complaints = append(b.complaints, fmt.Sprintf("%s: %s (%s)", e.Entry.Source, e.Entry.Text, e.Entry.URL))
			}
		case *cdpruntime.EventExceptionThrown:
			b.complaints = append(b.complaints, fmt.Sprintf("%+v", e.ExceptionDetails))
		case *page.EventJavascriptDialogOpening:
			b.complaints = append(b.complaints, "a dialog: "+e.Message)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	b.do(command(log.Enable, cdp.Empty{}), command(page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: watch}))
	return b
}

// command is one of the browser's protocol.
func command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// patience is for what takes a moment, and on a host that has much else to do a minute.
const patience = 2 * time.Minute

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx := b.ctx
	if len(steps) > 0 { // without any the browser is started, which ends with the context
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.screenshot("failed")
		b.t.Fatalf("%v\nthe page complains: %q", err, b.complaints)
	}
}

// eval returns what an expression of the page is.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits for an expression of the page to be true.
func (b *browser) until(what, expression string) {
	b.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		// What it is about may not be there yet.
		if eval[bool](b, `(() => { try { return Boolean(`+expression+`); } catch { return false; } })()`) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.screenshot("failed")
	b.t.Fatalf("%s: it is never true that %s\nthe page shows:\n%s\nand complains: %q", what, expression, eval[string](b, `document.body.innerText`), b.complaints)
}

func (b *browser) screenshot(name string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Logf("no screenshot: %v", err)
		return
	}
	b.shot++
	file := filepath.Join(b.dir, fmt.Sprintf("%s-%02d-%s.png", strings.ToLower(b.t.Name()), b.shot, name))
	if err := os.WriteFile(file, png, 0o644); err != nil {
		b.t.Error(err)
	}
}

func (b *browser) dark(on bool) {
	b.t.Helper()
	scheme := "light"
	if on {
		scheme = "dark"
	}
	b.do(command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}))
}

func (b *browser) signIn(server *httptest.Server, token string) {
	b.t.Helper()
	b.do(chromedp.Navigate(server.URL+Path), chromedp.WaitVisible("#token"), chromedp.SendKeys("#token", token+"\r"), chromedp.WaitVisible("#who b"))
}

// clean ends the test's look at the page: nothing was run that should not, and no policy was broken.
func (b *browser) clean() {
	b.t.Helper()
	if n := eval[int](b, `window.pwned`); n != 0 {
		b.t.Errorf("what a guest wrote was run %d times", n)
	}
	if v := eval[[]string](b, `window.violations`); len(v) != 0 {
		b.t.Errorf("the content security policy was broken: %q", v)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.complaints) != 0 {
		b.t.Errorf("the page complains: %q", b.complaints)
	}
}

func serve(t *testing.T, api http.Handler) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(Path, Handler())
	mux.Handle("/v1", api)
	mux.Handle("/v1/", api)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

// framing is a page of another origin that has the console in a frame.
func framing(url string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "<!doctype html><title>a page</title><iframe src=%q></iframe>", url)
	})
}
