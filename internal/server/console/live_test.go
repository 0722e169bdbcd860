package console

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// world is a runtime over a system in memory, with one tenant, its API and the console.
type world struct {
	t      *testing.T
	rt     *runtime.Runtime
	s      *runtime.Session
	tenant runtime.Tenant
	token  string
	server *httptest.Server
}

func open(t *testing.T, budget runtime.Budget) *world {
	t.Helper()
	chromium(t) // before anything slower
	w := &world{t: t}
	var err error
	w.rt, err = runtime.Open(t.Context(), runtime.Config{StateDir: t.TempDir(), Drivers: []sandbox.Driver{runtimetest.New("gvisor")},
		Images: &runtimetest.Images{}, DefaultImage: "debian-python"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.rt.Close(); err != nil {
			t.Error(err)
		}
	})
	w.tenant, w.token, err = w.rt.CreateTenant(t.Context(), runtime.TenantSpec{Name: "research", Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	w.s, err = w.rt.OpenSession(t.Context(), w.tenant.ID, runtime.SessionSpec{ID: "default"})
	if err != nil {
		t.Fatal(err)
	}
	w.server = serve(t, api(w.rt))
	return w
}

func (w *world) create(spec runtime.SandboxSpec) string {
	w.t.Helper()
	info, err := w.s.Create(w.t.Context(), runtime.CreateRequest{SandboxSpec: spec})
	if err != nil {
		w.t.Fatal(err)
	}
	return info.ID
}

// fork returns the children in the order of their creation, which is that of the tree.
func (w *world) fork(id string, n int) (children []string) {
	w.t.Helper()
	if _, err := w.s.Fork(w.t.Context(), runtime.ForkRequest{Sandbox: id, Count: n}); err != nil {
		w.t.Fatal(err)
	}
	list, err := w.s.List(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, sb := range list.Sandboxes {
		if sb.Parent == id {
			children = append(children, sb.ID)
		}
	}
	return children
}

func (w *world) start(id, line string) {
	w.t.Helper()
	if _, err := w.s.Run(w.t.Context(), runtime.RunRequest{Sandbox: id, Shell: line, Background: true}); err != nil {
		w.t.Fatal(err)
	}
}

// row is an expression for the row of a sandbox.
func row(id string) string {
	return fmt.Sprintf(`[...document.querySelectorAll(".tree tbody tr")].find((tr) => tr.querySelector(".id")?.textContent === %q)`, id)
}

// slash is the key "/" as a keyboard has it: the browser makes the character of it, unless the page has taken the key.
func slash() chromedp.Action[chromedp.Void] {
	return command(input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: "keyDown", Key: "/", Code: "Slash", Text: "/"})
}

func named(name string) runtime.SandboxSpec {
	return runtime.SandboxSpec{MemoryMiB: 256, Labels: map[string]string{"name": name}}
}

// The tree grows while one looks at it, and is worked with by keys and by mouse.
func TestForkTree(t *testing.T) {
	w := open(t, runtime.Budget{Sandboxes: 12, MemoryMiB: 8192, OutputBytes: 1 << 20})
	b := openBrowser(t)
	b.do(chromedp.Navigate(w.server.URL+Path), chromedp.WaitVisible("#token"))
	b.screenshot("sign-in")
	b.do(chromedp.SendKeys("#token", "aether_wrong\r"))
	b.until("a wrong token is refused", `document.querySelector(".sign .wrong")?.textContent.includes("does not know")`)
	b.do(chromedp.SendKeys("#token", w.token+"\r")) // what is there is selected: it is typed over
	b.until("there is nothing yet", `document.querySelector(".empty")?.innerText.includes("No sandboxes")`)
	b.until("it is live", `document.getElementById("live").dataset.state === "live"`)
	b.screenshot("empty")

	root := w.create(named("baseline"))
	b.until("a sandbox appears", row(root)+`?.querySelector(".label").textContent === "baseline"`)
	children := w.fork(root, 3)
	grandchildren := w.fork(children[1], 2)
	w.start(children[1], "echo step 1 of 3; echo step 2 of 3; stderr careful; sleep 1000")
	lone := w.create(named("another"))
	b.until("the forks appear", row(grandchildren[1])+`?.getAttribute("aria-level") === "4"`)
	levels := eval[[]string](b, `[...document.querySelectorAll(".tree tbody tr")].map((tr) => tr.getAttribute("aria-level") + " " + (tr.querySelector(".id")?.textContent ?? "session"))`)
	want := []string{"1 session", "2 " + root, "3 " + children[0], "3 " + children[1], "4 " + grandchildren[0], "4 " + grandchildren[1], "3 " + children[2], "2 " + lone}
	if strings.Join(levels, "\n") != strings.Join(want, "\n") {
		t.Errorf("the tree is\n%s\nwant\n%s", strings.Join(levels, "\n"), strings.Join(want, "\n"))
	}
	b.screenshot("tree")

	// By keys: to the filter, down to the rows, close and open one, show one, back.
	b.do(slash(), chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.ArrowLeft))
	b.until("it is closed", row(root)+`.getAttribute("aria-expanded") === "false" && !`+row(children[0]))
	b.do(chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.Enter))
	b.until("the output is shown", `document.querySelector(".output pre")?.textContent.includes("step 2 of 3")`)
	b.until("its audit entries are shown", `document.querySelector(".detail .audit")?.innerText.includes("echo step 1")`)
	b.do(chromedp.Click(`//button[text()="stderr"]`))
	b.until("the other stream is shown", `document.querySelector(".output pre")?.textContent === "careful\n"`)
	b.do(chromedp.Click(`//button[text()="stdout"]`))
	b.until("it is back", `document.querySelector(".output pre")?.textContent.includes("step 1")`)
	time.Sleep(2500 * time.Millisecond) // figures of its use
	b.screenshot("detail")
	b.dark(true)
	b.screenshot("detail-dark")
	b.dark(false)

	// Paused, and let go on.
	b.do(chromedp.Click(`//button[text()="Pause"]`))
	b.until("it is paused", row(children[1])+`.querySelector(".state").textContent === "paused"`)
	b.do(chromedp.Click(`//button[text()="Resume"]`))
	b.until("it goes on", row(children[1])+`.querySelector(".state").textContent === "running"`)

	// Killed: not at once, and then really.
	b.do(chromedp.Click(`.detail button.danger`), chromedp.WaitVisible("dialog"))
	b.screenshot("sure")
	// Asked again before the browser has told that the first question is closed.
	eval[bool](b, `(() => { document.querySelector("dialog button").click(); document.querySelector(".detail button.danger").click(); return true; })()`)
	time.Sleep(300 * time.Millisecond)
	b.until("the second question stays", `[...document.querySelectorAll("dialog[open] button")].some((e) => e.textContent === "Kill")`)
	b.do(chromedp.Click(`//dialog//button[text()="Cancel"]`), chromedp.WaitNotVisible("dialog"))
	if _, err := w.s.Inspect(t.Context(), children[1]); err != nil {
		t.Fatalf("it was killed though it was not to be: %v", err)
	}
	b.do(chromedp.Click(`.detail button.danger`), chromedp.WaitVisible("dialog"), chromedp.Click(`//dialog//button[text()="Kill"]`))
	b.until("it has ended", row(children[1])+`.classList.contains("ended")`)
	if _, err := w.s.Inspect(t.Context(), children[1]); runtime.CodeOf(err) != runtime.CodeGone {
		t.Errorf("after it was killed: %v", err)
	}
	b.until("it is said why", `document.querySelector(".gone").textContent.includes("it was killed at")`)
	b.until("those forked from it stay", row(grandchildren[0])+`.getAttribute("aria-level") === "4"`)
	b.screenshot("killed")
	b.do(chromedp.KeyEvent(kb.Escape))
	b.until("nothing is selected", `!document.querySelector(".detail")`)
	for _, id := range grandchildren {
		if err := w.s.Kill(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	b.until("what has ended goes, when nothing is beneath it", `!`+row(children[1])+` && !`+row(grandchildren[0])+` && `+row(children[0])+` !== undefined`)

	b.do(chromedp.KeyEvent("2"))
	b.until("budgets", `document.querySelector("main").innerText.includes("Session default")`)
	b.screenshot("budgets")
	b.do(chromedp.KeyEvent("3"))
	b.until("audit", `document.querySelector(".audit")?.innerText.includes("kill")`)
	b.screenshot("audit")
	b.do(chromedp.KeyEvent("?"), chromedp.WaitVisible("dialog"))
	b.screenshot("keys")
	b.do(chromedp.KeyEvent(kb.Escape), chromedp.Click("#out"), chromedp.WaitVisible("#token"))
	if got := eval[string](b, `JSON.stringify([Object.values(sessionStorage), Object.values(localStorage), document.cookie])`); strings.Contains(got, w.token) {
		t.Error("the token is still there after signing out")
	}
	b.clean()
}

// Whatever a guest or a client wrote is shown as the text that it is.
func TestHostileTexts(t *testing.T) {
	w := open(t, runtime.Budget{})
	b := openBrowser(t)
	attacks := []string{
		`<img src=x onerror=alert(1)>`, `<script>alert(1)</script>`, `"><svg onload=alert(1)>`, `'-alert(1)-'`, `javascript:alert(1)`,
		`</pre><iframe srcdoc="<script>parent.alert(1)</script>">`, `{{constructor.constructor('alert(1)')()}}`,
		"\u202egnp.exe", "\x1b[2J\x1b]0;title\a", "a\u200bb",
	}
	var ids []string
	for i, text := range attacks {
		labels := map[string]string{"name": text}
		if i%2 == 1 {
			labels = map[string]string{text: text}
		}
		ids = append(ids, w.create(runtime.SandboxSpec{Labels: labels, Image: text}))
		w.start(ids[i], "echo "+text+" ; stderr "+text+" ; sleep 1000")
		_, _ = w.s.Run(t.Context(), runtime.RunRequest{Sandbox: text, Shell: text}) // for the audit log
	}
	b.signIn(w.server, w.token)
	for i, id := range ids {
		eval[any](b, fmt.Sprintf(`location.hash = "#/sandboxes/%s"; null`, id))
		b.until("the output of "+attacks[i], fmt.Sprintf(`document.querySelector(".detail h2").textContent === %q && document.querySelector(".output pre").textContent.trim() !== ""`, id))
	}
	b.screenshot("detail")
	first := ids[0]
	eval[any](b, fmt.Sprintf(`location.hash = "#/sandboxes/%s"; null`, first))
	b.until("it is shown as it was written", fmt.Sprintf(`document.querySelector(".output pre").textContent.trim() === %q`, attacks[0]))
	if got := eval[string](b, row(first)+`.querySelector(".label").textContent`); got != attacks[0] {
		t.Errorf("the label is shown as %q", got)
	}
	for _, hash := range []string{"#/audit", "#/budgets", "#/sandboxes/%3Cimg%20src=x%20onerror=alert(1)%3E", "#/<img src=x onerror=alert(1)>", "#/sandboxes/%ff"} {
		eval[any](b, fmt.Sprintf(`location.hash = %q; null`, hash))
		time.Sleep(500 * time.Millisecond)
	}
	eval[any](b, `location.hash = "#/audit"; null`)
	b.until("the audit is shown", `document.querySelector(".audit")?.innerText.includes("onerror=alert")`)
	b.screenshot("audit")
	if n := eval[int](b, `document.querySelectorAll("img, iframe, main script, object, embed, [onerror], [onload]").length`); n != 0 {
		t.Errorf("%d elements were made of what guests wrote", n)
	}
	if text := eval[string](b, `document.body.textContent`); strings.ContainsAny(text, "\u202e\x1b\u200b") {
		t.Error("characters that change how text is shown came through")
	}
	b.clean()
}

// A page that is another one's frame, or an origin of its own, gets nothing; and a script in the page gets nowhere.
func TestPolicyHolds(t *testing.T) {
	w := open(t, runtime.Budget{})
	b := openBrowser(t)
	b.signIn(w.server, w.token)
	if got := eval[string](b, `(() => { try { document.body.innerHTML = "<b>x</b>"; return "it works"; } catch (e) { return e.name; } })()`); got != "TypeError" {
		t.Errorf("markup from text: %s", got)
	}
	eval[any](b, `(() => { const s = document.createElement("style"); s.textContent = "body { display: none }"; document.head.append(s); const i = document.createElement("img"); i.src = "http://127.0.0.1:9/x"; document.body.append(i); fetch("http://127.0.0.1:9/").catch(() => {}); return null; })()`)
	b.until("all are refused", `["style-src", "img-src", "connect-src", "require-trusted-types-for"].every((d) => window.violations.some((v) => v.startsWith(d)))`)

	frame := httptest.NewServer(framing(w.server.URL + Path))
	defer frame.Close()
	b.do(chromedp.Navigate(frame.URL))
	time.Sleep(time.Second)
	if got := eval[string](b, `(() => { try { return document.querySelector("iframe").contentDocument ? "open" : "closed"; } catch (e) { return "closed"; } })()`); got != "closed" {
		t.Error("another page can look into the console in a frame")
	}
	var refused bool
	b.mu.Lock()
	for _, c := range b.complaints {
		refused = refused || strings.Contains(c, "frame-ancestors") || strings.Contains(c, "X-Frame-Options")
	}
	b.mu.Unlock()
	if !refused {
		t.Errorf("nothing says that the frame was refused: %q", b.complaints)
	}
}

// With a token that only reads, all is there to see, and nothing changes.
func TestReadOnly(t *testing.T) {
	w := open(t, runtime.Budget{})
	id := w.create(named("look, do not touch"))
	w.start(id, "echo hello ; sleep 1000")
	view, err := w.rt.NewViewToken(t.Context(), w.tenant.ID)
	if err != nil {
		t.Fatal(err)
	}
	b := openBrowser(t)
	b.signIn(w.server, view)
	b.until("it is said", `document.querySelector("#who .tag")?.textContent === "read only"`)
	eval[any](b, fmt.Sprintf(`location.hash = "#/sandboxes/%s"; null`, id))
	b.until("the output is there", `document.querySelector(".output pre")?.textContent === "hello\n"`)
	if n := eval[int](b, `[...document.querySelectorAll(".detail button")].filter((x) => /Kill|Pause|Terminate/.test(x.textContent) && x.disabled && x.title).length`); n != 3 {
		t.Errorf("%d of 3 buttons are disabled and say why", n)
	}
	b.screenshot("detail")
	eval[any](b, row(id)+`.focus()`)
	b.do(chromedp.KeyEvent(kb.Delete))
	if eval[bool](b, `document.getElementById("dialog").open`) {
		t.Error("it asks whether to kill")
	}
	// The page is not what keeps it from being done.
	for _, request := range []string{`"DELETE", "/v1/sandboxes/` + id + `"`, `"POST", "/v1/sandboxes/` + id + `/pause"`, `"POST", "/v1/sandboxes"`} {
		status := eval[string](b, fmt.Sprintf(`(() => { const x = new XMLHttpRequest(); x.open(%s, false); x.setRequestHeader("Authorization", "Bearer %s"); x.send(); return String(x.status); })()`, request, view))
		if status != "403" {
			t.Errorf("%s: %s", request, status)
		}
	}
	if info, err := w.s.Inspect(t.Context(), id); err != nil || info.State != runtime.StateRunning {
		t.Errorf("%+v, %v", info, err)
	}
	b.clean()
}

// A server that goes away is said to, and what was read last stays; when it is back, so is the console.
func TestServerGoesAway(t *testing.T) {
	w := open(t, runtime.Budget{})
	id := w.create(named("still here"))
	b := openBrowser(t)
	b.signIn(w.server, w.token)
	b.until("it is there", row(id)+` !== undefined`)
	eval[any](b, `window.working = window.fetch; window.fetch = () => Promise.reject(new TypeError("gone")); null`)
	w.server.CloseClientConnections()
	b.until("it is offline", `document.getElementById("live").dataset.state === "offline" && !document.getElementById("banner").hidden`)
	b.screenshot("offline")
	if !eval[bool](b, row(id)+` !== undefined`) {
		t.Error("what was there is not shown any more")
	}
	eval[any](b, `window.fetch = window.working; null`)
	b.until("it is back", `document.getElementById("live").dataset.state !== "offline" && document.getElementById("banner").hidden`)
	b.clean()
}

// Many sandboxes are no trouble.
func TestManySandboxes(t *testing.T) {
	w := open(t, runtime.Budget{})
	for i := range 20 {
		root := w.create(named(fmt.Sprintf("attempt %d", i)))
		for _, child := range w.fork(root, 4) {
			w.fork(child, 5)
		}
	}
	b := openBrowser(t)
	b.signIn(w.server, w.token)
	b.until("all are there", `document.querySelectorAll(".tree tbody tr").length === 501`)
	b.screenshot("500")
	// What it takes to read the lists and to bring the page up to date, and to find one of them.
	took := eval[float64](b, `(() => { const from = performance.now(); const input = document.querySelector("input[type=search]"); input.value = "attempt 17"; input.dispatchEvent(new Event("input")); document.body.offsetHeight; return performance.now() - from; })()`)
	t.Logf("the filter took %.0f ms", took)
	if took > 500 {
		t.Errorf("the filter took %.0f ms", took)
	}
	b.until("those of one are left", `document.querySelectorAll(".tree tbody tr").length === 26`)
	b.screenshot("filtered")
	b.clean()
}
