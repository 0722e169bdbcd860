// The output of a background process, read on while it comes.
import { attr, el, fill, plain, put } from "./dom.js";
import { bytes } from "./format.js";
import { api, Problem } from "./api.js";

const first = 64 << 10; // bytes from the end that are shown at once
const kept = 512 << 10; // characters that are shown at most
const readEvery = 1000; // ms, while the process runs

// What programs send to terminals for colours and lines; the text is all that is shown.
const colours = /\u001b\[[0-9;:?]*[A-Za-z]/g;

export class Output {
  constructor(live, act) {
    this.live = live;
    this.id = "";
    this.stream = "stdout";
    this.tabs = ["stdout", "stderr"].map((name) => el("button", { type: "button", "aria-pressed": "false", on: { click: () => this.pick(name) } }, name));
    this.stop = el("button", { type: "button", on: { click: () => act.run(() => api.signal(this.id, "TERM"), `SIGTERM was sent to ${this.id}.`) } }, "Terminate");
    this.note = el("span", { class: "soft" });
    this.pre = el("pre", { tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Output" });
    this.root = el("div", { class: "output", hidden: true },
      el("h3", {}, el("span", { class: "tabs" }, this.tabs), this.note, el("span", { class: "space" }), this.stop), this.pre);
  }

  show(process) {
    this.process = process;
    this.root.hidden = !process;
    const id = process?.id ?? "";
    if (process) {
      const may = this.live.can("exec");
      this.stop.disabled = !process.running || !may;
      this.stop.title = may ? "" : "This token may not: it has no capability exec";
    }
    if (id === this.id) { this.read(); return; }
    this.id = id;
    if (process) this.pick(process.stdout_bytes === 0 && process.stderr_bytes > 0 ? "stderr" : "stdout");
    else this.reset();
  }

  reset() {
    this.stopping?.abort();
    clearTimeout(this.timer);
    this.next = -first;
    this.length = 0;
    this.busy = this.ended = false;
    this.stopping = new AbortController();
    fill(this.pre);
    attr(this.pre, "class", null);
    put(this.note, "");
  }

  pick(stream) {
    this.stream = stream;
    for (const tab of this.tabs) attr(tab, "aria-pressed", String(tab.textContent === stream));
    this.reset();
    this.read();
  }

  async read() {
    if (this.busy || this.ended || !this.id) return;
    this.busy = true;
    clearTimeout(this.timer);
    const { signal } = this.stopping;
    try {
      for (;;) {
        const chunk = await api.output(this.id, this.stream, this.next, signal);
        if (signal.aborted) return;
        this.append(chunk);
        if (chunk.end || chunk.next >= chunk.total) { this.ended = Boolean(chunk.end); break; }
      }
    } catch (e) {
      if (signal.aborted) return;
      if (e instanceof Problem && [404, 410].includes(e.status)) this.ended = true;
      put(this.note, e.message);
    } finally {
      if (!signal.aborted) this.busy = false;
    }
    if (!this.ended) this.timer = setTimeout(() => this.read(), readEvery);
  }

  append(chunk) {
    const begun = this.next >= 0;
    if (!begun && chunk.offset > 0) this.text(`… ${bytes(chunk.offset)} before this\n`);
    else if (chunk.skipped) this.text(`\n… ${bytes(chunk.skipped)} are no longer kept …\n`);
    const text = chunk.encoding === "base64" ? new TextDecoder().decode(Uint8Array.from(atob(chunk.text), (c) => c.charCodeAt(0))) : chunk.text;
    this.text(text);
    this.next = chunk.next;
    put(this.note, bytes(chunk.total));
    if (chunk.total === 0) {
      attr(this.pre, "class", "none");
      if (!this.pre.firstChild) this.pre.append(`Nothing on ${this.stream}${chunk.end ? "" : " yet"}.`);
    }
  }

  text(text) {
    if (!text) return;
    if (this.pre.className === "none") { fill(this.pre); attr(this.pre, "class", null); }
    const follow = this.pre.scrollTop + this.pre.clientHeight >= this.pre.scrollHeight - 8;
    const node = document.createTextNode(plain(text.replaceAll("\r\n", "\n").replace(colours, "")));
    this.pre.append(node);
    this.length += node.length;
    while (this.length > kept && this.pre.firstChild !== node) {
      this.length -= this.pre.firstChild.length;
      this.pre.firstChild.remove();
    }
    if (follow) this.pre.scrollTop = this.pre.scrollHeight;
  }
}
