// What is known of one sandbox: facts, use of resources, processes with their output, its audit entries.
import { attr, el, fill, put } from "./dom.js";
import { bytes, count, mebibytes, milliseconds, span, time } from "./format.js";
import { api, Problem } from "./api.js";
import { Output } from "./output.js";
import { auditTable } from "./pages.js";
import { ends, nameOf } from "./tree.js";

const statsEvery = 2000; // ms
const statsKept = 60;

export class Detail {
  constructor(live, act, close) {
    this.live = live;
    this.act = act;
    this.id = "";
    this.title = el("h2", {});
    this.state = el("span", { class: "state" });
    this.name = el("span", { class: "soft" });
    this.pause = el("button", { type: "button", on: { click: () => this.toggle() } });
    this.end = el("button", { type: "button", class: "danger", on: { click: () => this.kill(this.id) } }, "Kill …");
    this.gone = el("p", { class: "gone", role: "status", hidden: true });
    this.memory = el("b"); this.cpu = el("b");
    this.memoryLine = spark(); this.cpuLine = spark();
    this.use = el("section", {}, el("h3", { text: "Use" }), el("div", { class: "use" },
      el("div", {}, el("span", { class: "soft", text: "Memory " }), this.memory, this.memoryLine.svg),
      el("div", {}, el("span", { class: "soft", text: "vCPU " }), this.cpu, this.cpuLine.svg)));
    this.noUse = el("p", { class: "soft", hidden: true });
    this.use.append(this.noUse);
    this.facts = el("dl", { class: "facts" });
    this.processes = el("tbody", { on: { click: (e) => this.choose(e), keydown: (e) => e.key === "Enter" && this.choose(e) } });
    this.noProcesses = el("p", { class: "soft", text: "No background processes." });
    this.output = new Output(live, act);
    this.audit = el("div", {});
    this.root = el("aside", { class: "pane detail", "aria-label": "The sandbox that is selected" },
      el("header", {}, this.title, this.state, this.name, el("span", { class: "space" }), this.pause, this.end,
        el("button", { type: "button", class: "quiet", title: "Close (Esc)", "aria-label": "Close", on: { click: close } }, "✕")),
      this.gone,
      el("div", { class: "scroll" }, this.use,
        el("section", {}, el("h3", { text: "Background processes" }), this.noProcesses, el("table", { class: "list" }, this.processes), this.output.root),
        el("section", {}, el("h3", { text: "Facts" }), this.facts),
        el("section", {}, el("h3", { text: "Latest audit entries" }), this.audit)));
  }

  node() { return this.live.forest.nodes.get(this.id); }

  show(id) {
    if (id === this.id) return;
    this.id = id;
    this.stopping?.abort();
    clearInterval(this.timer);
    this.samples = [];
    this.last = null;
    this.marks = -1;
    this.output.show(null);
    this.listed = [];
    fill(this.processes);
    fill(this.audit);
    this.noUse.hidden = true;
    this.gone.hidden = true;
    if (!id) return;
    this.stopping = new AbortController();
    put(this.title, id);
    this.update();
    const signal = this.stopping.signal;
    this.timer = setInterval(() => this.sample(signal), statsEvery);
    this.sample(signal);
  }

  update() {
    if (!this.id) return;
    const node = this.node(), i = node?.info;
    const ended = Boolean(node?.ended) || !node && this.live.loaded;
    const state = ended ? "ended" : i?.state ?? "";
    attr(this.state, "data-state", state);
    put(this.state, state);
    put(this.name, nameOf(i));
    const may = this.live.can("exec"), why = may ? "" : "This token may not: it has no capability exec";
    put(this.pause, i?.state === "paused" ? "Resume" : "Pause");
    for (const button of [this.pause, this.end]) { button.disabled = ended || !i || !may; button.title = why; }
    this.use.hidden = ended;
    if (ended && this.gone.hidden) this.explain();
    this.showFacts(i, ended);
    if (this.marks !== this.live.marks || this.live.state !== "live") {
      this.marks = this.live.marks;
      this.read(this.stopping.signal);
    }
  }

  // explain asks why the sandbox is not there any more.
  async explain() {
    const id = this.id;
    this.gone.hidden = false;
    const cause = this.live.causes.get(id);
    put(this.gone, cause ? `It has ended: ${cause}.` : "It has ended.");
    if (cause) return; // to ask would be an entry in the audit log
    try { await api.sandbox(id); } catch (e) {
      if (id === this.id && e instanceof Problem && (e.status === 410 || e.status === 404)) put(this.gone, `${e.status === 410 ? "It has ended" : "It is not there"}: ${e.message}.`);
    }
  }

  showFacts(i, ended) {
    const key = JSON.stringify([i, ended]);
    if (key === this.shown) return;
    this.shown = key;
    if (!i) { fill(this.facts); return; }
    const link = (id) => el("a", { class: "id", href: `#/sandboxes/${encodeURIComponent(id)}`, text: id });
    this.endsIn = el("dd");
    const facts = [
      ["System", [i.system, i.why && el("span", { class: "soft", text: ` ${i.why.startsWith(`${i.system}: `) ? i.why.slice(i.system.length + 2) : i.why}` })]],
      ["Image", i.image], ["Size", `${count(i.vcpus)} vCPU, ${mebibytes(i.memory_mib)}`],
      ["Network", i.egress?.length ? `${i.network}: ${i.egress.join(", ")}` : i.network],
      i.parent && ["Forked from", link(i.parent)], i.snapshot && ["Restored from", el("span", { class: "id", text: i.snapshot })],
      ["Session", i.session], ["Created", time(i.created)], ["Ends", this.endsIn],
      ...Object.entries(i.labels ?? {}).map(([k, v]) => [k, v]),
    ].filter(Boolean);
    fill(this.facts, facts.map(([name, value]) => [el("dt", { text: name }), value === this.endsIn ? value : el("dd", {}, value)]));
    this.tick();
  }

  tick() {
    for (const tr of this.processes.children) {
      const p = this.listed.find((q) => q.id === tr.dataset.id);
      if (p?.running) put(tr.querySelector(".took"), took(p));
    }
    const i = this.node()?.info;
    if (!i || !this.endsIn) return;
    const parts = [];
    const since = (Date.now() - (i.read ?? Date.now())) / 1000;
    const end = ends(i);
    if (typeof i.pause_in_s === "number") parts.push(`paused in ${span(i.pause_in_s - since)} if nothing happens`);
    if (end) parts.push(`killed in ${span(end.seconds)}${end.why === "idle" ? " if nothing happens" : ": its time is over then"}`);
    put(this.endsIn, this.node().ended ? "it has ended" : parts.join("; ") || "with its session, or when it is killed");
  }

  // read gets what is in no list of all sandboxes.
  async read(signal) {
    if (this.reading) { this.again = true; return; }
    this.reading = true;
    try {
      // To ask for the processes of what has ended, when there are none, would be an entry in the audit log.
      const none = !this.listed.length && (!this.node() || this.node().ended);
      const [processes, audit] = await Promise.all([none ? [] : api.processes(this.id, signal), api.audit(this.id, "", 20, signal)]);
      if (signal.aborted) return;
      this.list(processes);
      fill(this.audit, audit.entries.length ? auditTable(audit.entries, { short: true }) : el("p", { class: "soft", text: "There are none." }));
    } catch (e) {
      if (!signal.aborted && !(e instanceof Problem && [404, 410].includes(e.status))) this.problem = e;
    } finally {
      this.reading = false;
      if (this.again || signal.aborted) {
        this.again = false;
        if (this.id && !this.stopping.signal.aborted) this.read(this.stopping.signal);
      }
    }
  }

  list(processes) {
    this.listed = processes.slice().reverse();
    this.noProcesses.hidden = processes.length > 0;
    const had = this.processes.contains(document.activeElement) && document.activeElement.dataset.id;
    fill(this.processes, this.listed.map((p) => el("tr", { "data-id": p.id, tabindex: "0", "aria-selected": String(p.id === this.output.id) },
      el("td", {}, el("span", { class: "state", "data-state": p.running ? "running" : p.error || p.exit_code !== 0 ? "failed" : "ended", text: ending(p) })),
      el("td", { class: "wide" }, el("code", { text: p.command })),
      el("td", { class: "num soft took", text: took(p) }),
      el("td", { class: "num soft", text: bytes(p.stdout_bytes + p.stderr_bytes) }))));
    if (had) [...this.processes.children].find((tr) => tr.dataset.id === had)?.focus();
    const chosen = this.listed.find((p) => p.id === this.output.id) ?? this.listed[0];
    if (chosen) this.output.show(chosen);
    this.mark();
  }

  choose(e) {
    const tr = e.target.closest("tr[data-id]");
    const p = tr && this.listed.find((q) => q.id === tr.dataset.id);
    if (!p) return;
    e.stopPropagation();
    this.output.show(p);
    this.mark();
  }

  mark() { for (const tr of this.processes.children) attr(tr, "aria-selected", String(tr.dataset.id === this.output.id)); }

  async sample(signal) {
    const i = this.node()?.info;
    if (!i || i.state !== "running" || this.node().ended || document.hidden) return;
    let s;
    try { s = await api.stats(this.id, signal); } catch (e) {
      if (signal.aborted) return;
      if (e instanceof Problem && e.code === "unsupported") {
        clearInterval(this.timer);
        this.noUse.hidden = false;
        put(this.noUse, `${i.system} does not report what a sandbox uses.`);
      }
      return;
    }
    if (signal.aborted) return;
    const now = performance.now();
    const cpu = this.last ? Math.max(0, (s.cpu_ns - this.last.cpu) / 1e6 / (now - this.last.at)) : 0;
    if (this.last) this.samples.push({ memory: s.memory_bytes, cpu });
    this.last = { cpu: s.cpu_ns, at: now };
    this.samples = this.samples.slice(-statsKept);
    put(this.memory, `${bytes(s.memory_bytes)} of ${mebibytes(i.memory_mib)}`);
    put(this.cpu, this.samples.length ? `${cpu.toFixed(2)} of ${i.vcpus}` : "…");
    this.memoryLine.draw(this.samples.map((x) => x.memory), i.memory_mib * 1048576);
    this.cpuLine.draw(this.samples.map((x) => x.cpu), i.vcpus);
  }

  toggle() {
    const i = this.node()?.info;
    if (!i) return;
    const { id } = this;
    if (i.state === "paused") this.act.run(() => api.resume(id), `${id} goes on.`);
    else this.act.run(() => api.pause(id), `${id} is paused.`);
  }

  async kill(id) {
    const node = this.live.forest.nodes.get(id);
    if (!node?.info || !this.live.can("exec")) return;
    const below = this.live.forest.below(id), processes = node.info.processes;
    const says = [processes && `${count(processes)} background ${processes === 1 ? "process" : "processes"} in it will end.`,
      below && `${count(below)} forked from it ${below === 1 ? "stays" : "stay"}.`].filter(Boolean).join(" ");
    if (await this.act.sure(`Kill ${id}?`, [nameOf(node.info), says, "This cannot be undone."], "Kill")) {
      await this.act.run(() => api.kill(id), `${id} was killed.`);
    }
  }
}

const took = (p) => (p.running ? span((Date.now() - Date.parse(p.started)) / 1000) : milliseconds(p.duration_ms));

function ending(p) {
  if (p.running) return "running";
  if (p.error) return p.error.code;
  if (p.timed_out) return "timed out";
  return p.signal || `exit ${p.exit_code ?? "?"}`;
}

// spark is a line of the latest figures, from 0 to a limit.
function spark() {
  const line = el("polyline", { points: "" });
  const svg = el("svg", { class: "spark", viewBox: `0 0 ${statsKept - 1} 34`, preserveAspectRatio: "none", "aria-hidden": "true" },
    el("line", { x1: "0", y1: "33.5", x2: String(statsKept - 1), y2: "33.5" }), line);
  return {
    svg,
    draw(values, limit) {
      const top = Math.max(limit, ...values) || 1;
      line.setAttribute("points", values.map((v, n) => `${statsKept - values.length + n},${(33 - 32 * v / top).toFixed(2)}`).join(" "));
    },
  };
}
