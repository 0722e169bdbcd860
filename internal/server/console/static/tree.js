// The view of the sandboxes: figures, fork tree, and beside it what is selected.
import { attr, el, fill, plain, put } from "./dom.js";
import { count, mebibytes, resource, span } from "./format.js";
import { Detail } from "./detail.js";

const columns = [["Sandbox", ""], ["State", ""], ["System", "roomy"], ["Image", "roomy narrow"], ["Memory", "num"], ["vCPU", "num roomy narrow"], ["Processes", "num roomy"], ["Age", "num"], ["Ends in", "num"]];
const guidesShown = 16;

export class Tree {
  constructor(live, act) {
    this.live = live;
    this.rows = new Map(); // by key: {tr, cells}
    this.selected = "";
    this.focus = "";
    this.detail = new Detail(live, act, () => { location.hash = "#/sandboxes"; });
    this.strip = el("dl", { class: "strip", "aria-label": "Totals" });
    this.search = el("input", { type: "search", placeholder: "Filter: ID, label, system, state", "aria-label": "Filter", autocomplete: "off", spellcheck: "false",
      on: { input: () => { live.forest.filter = this.search.value.trim(); this.update(); }, keydown: (e) => this.searchKey(e) } });
    this.found = el("span", { class: "soft", role: "status" });
    this.body = el("tbody", { on: { click: (e) => this.click(e), keydown: (e) => this.key(e) } });
    this.table = el("table", { class: "tree", role: "treegrid", "aria-label": "Sandboxes" },
      el("thead", {}, el("tr", {}, columns.map(([name, kind]) => el("th", { scope: "col", class: kind, text: name })))), this.body);
    this.scroll = el("div", { class: "scroll" }, this.table);
    this.empty = el("div", { class: "empty" });
    this.pane = el("div", { class: "pane" }, el("div", { class: "tools" }, this.search, this.found), this.scroll, this.empty);
    this.panes = el("div", { class: "panes" }, this.pane);
  }

  show(main, id) {
    if (this.strip.parentNode !== main) fill(main, this.strip, this.panes);
    this.select(id);
    this.update();
  }

  hide() { this.detail.show(""); }

  select(id) {
    this.selected = id;
    if (id) this.focus = id;
    this.detail.show(id);
    attr(this.panes, "class", id ? "panes two" : "panes");
    if (!id) this.detail.root.remove();
    else if (!this.detail.root.parentNode) this.panes.append(this.detail.root);
    this.rows.get(id)?.tr.scrollIntoView({ block: "nearest" });
  }

  update() {
    const { live } = this;
    const rows = live.loaded ? live.forest.rows() : [];
    const seen = new Set(rows.map((r) => r.key));
    let lost = false; // the row that had the keyboard
    for (const [key, row] of this.rows) {
      if (seen.has(key)) continue;
      lost ||= row.tr.contains(document.activeElement);
      row.tr.remove();
      this.rows.delete(key);
    }
    const first = this.rows.size === 0;
    let at = this.body.firstChild;
    for (const r of rows) {
      let row = this.rows.get(r.key);
      if (!row) {
        row = r.session ? this.sessionRow(r) : this.sandboxRow(r);
        if (!first && !r.session) row.tr.classList.add("born");
        this.rows.set(r.key, row);
      }
      row.data = r;
      this.refresh(row, r);
      if (row.tr === at) at = at.nextSibling;
      else this.body.insertBefore(row.tr, at);
    }
    this.order = rows;
    if (!this.rows.has(this.focus)) this.focus = rows[0]?.key ?? "";
    if (lost) this.rows.get(this.focus)?.tr.focus({ preventScroll: true });
    for (const [key, row] of this.rows) attr(row.tr, "tabindex", key === this.focus ? "0" : "-1");
    this.figures(rows);
    this.detail.update();
  }

  figures(rows) {
    const { live } = this;
    const nodes = [...live.forest.nodes.values()].filter((n) => !n.ended && n.info);
    const sum = (f) => nodes.reduce((n, s) => n + f(s.info), 0);
    const paused = nodes.filter((n) => n.info.state === "paused").length;
    const cell = (name, value, small, line) => el("div", {}, el("dt", { text: name }), el("dd", {}, value, small && el("small", { text: small })), line && meter(line));
    fill(this.strip,
      cell("Sandboxes", count(nodes.length), paused ? `${count(paused)} paused` : ""),
      cell("Memory", mebibytes(sum((i) => i.memory_mib)), "at most"),
      cell("vCPUs", count(sum((i) => i.vcpus))),
      cell("Background processes", count(sum((i) => i.processes))),
      cell("Sessions", count(live.sessions.length)),
      (live.who?.budget?.lines ?? []).map((l) => cell(`Budget: ${budgetName(l)}`, resource(l.resource, l.used), `of ${resource(l.resource, l.limit)}`, l)));
    const found = rows.filter((r) => r.node && !r.dim).length;
    put(this.found, live.forest.filter ? `${count(found)} found` : "");
    this.hint(rows);
  }

  hint(rows) {
    const { live } = this;
    const none = live.loaded && rows.length === 0;
    this.scroll.hidden = rows.length === 0;
    this.empty.hidden = !none && live.loaded;
    if (!live.loaded) {
      const text = live.problem ? "Nothing could be read yet." : "Reading the sandboxes …";
      if (this.hinted !== text) fill(this.empty, el("p", { text }));
      this.hinted = text;
    } else if (none) {
      const text = live.forest.filter;
      if (this.hinted !== `none ${text}`) {
        fill(this.empty, text ? [el("h2", { text: "Nothing matches" }), el("p", { text: "Esc takes the filter away." })]
          : [el("h2", { text: "No sandboxes" }), el("p", { text: "They appear here as soon as an agent, a client of the API or the command line makes one." }),
            el("pre", { text: "curl -X POST -H \"Authorization: Bearer $TOKEN\" \\\n  -H 'Content-Type: application/json' -d '{}' \\\n  " + location.origin + "/v1/sandboxes" })]);
      }
      this.hinted = `none ${text}`;
    }
  }

  twist() {
    return el("button", { class: "twist", type: "button", tabindex: "-1", "aria-hidden": "true" }, el("svg", { viewBox: "0 0 8 8" }, el("path", { d: "M2.5 1l3 3-3 3" })));
  }

  sessionRow() {
    const twist = this.twist(), name = el("b"), much = el("span");
    const tr = el("tr", { class: "session", role: "row", "aria-level": "1" },
      el("td", { class: "name", role: "gridcell", colspan: String(columns.length) }, el("div", {}, twist, "Session", name, much)));
    return { tr, twist, name, much };
  }

  sandboxRow(r) {
    const twist = this.twist();
    const guides = el("div", {});
    const cells = columns.slice(1).map(([, kind]) => el("td", { role: "gridcell", class: kind }));
    const state = el("span", { class: "state" });
    cells[0].append(state);
    const label = el("span", { class: "label" });
    const tr = el("tr", { role: "row" }, el("td", { class: "name", role: "gridcell" }, guides), cells);
    return { tr, twist, guides, id: el("span", { class: "id", text: r.key }), label, state, cells };
  }

  refresh(row, r) {
    const { tr } = row;
    attr(row.twist, "data-open", r.open && r.children ? "" : null);
    attr(tr, "aria-expanded", r.children ? String(r.open) : null);
    if (r.session) {
      put(row.name, r.session.id);
      const n = this.live.forest.living(r.session.id);
      put(row.much, `${count(n)} ${n === 1 ? "sandbox" : "sandboxes"}`);
      return;
    }
    const { node } = r, i = node.info;
    attr(tr, "aria-level", r.level);
    attr(tr, "aria-posinset", r.position);
    attr(tr, "aria-setsize", r.size);
    attr(tr, "aria-selected", String(node.id === this.selected));
    tr.classList.toggle("dim", r.dim);
    tr.classList.toggle("ended", Boolean(node.ended));
    const line = r.guides.join(" ") + r.children;
    if (row.line !== line) {
      row.line = line;
      row.twist.hidden = false;
      const shown = r.guides.slice(-guidesShown);
      fill(row.guides, r.guides.length > shown.length && el("span", { class: "more", text: `+${r.guides.length - shown.length}` }),
        shown.map((g) => el("span", { class: `guide ${g}` })), r.children ? row.twist : el("span", { class: "twist" }), row.id, row.label);
    }
    put(row.label, nameOf(i));
    const state = node.ended ? "ended" : i.state;
    attr(row.state, "data-state", state);
    put(row.state, state);
    const [, system, image, memory, vcpus, processes] = row.cells;
    put(system, i?.system ?? "");
    put(image, i?.image ?? "");
    put(memory, i ? mebibytes(i.memory_mib) : "");
    put(vcpus, i ? i.vcpus : "");
    put(processes, i && i.processes ? i.processes : "");
    this.tickRow(row);
  }

  // tick moves what changes by itself.
  tick() {
    if (this.live.forest.prune(Date.now())) this.update();
    for (const row of this.rows.values()) if (row.cells) this.tickRow(row);
    this.detail.tick();
  }

  tickRow(row) {
    const { node } = row.data ?? {};
    const i = node?.info;
    put(row.cells[6], i && !node.ended ? span((Date.now() - Date.parse(i.created)) / 1000) : "");
    const end = node.ended ? null : ends(i);
    put(row.cells[7], end ? span(end.seconds) : "");
    row.cells[7].classList.toggle("soon", Boolean(end && end.seconds < 60));
  }

  click(e) {
    const tr = e.target.closest("tr");
    const entry = [...this.rows.entries()].find(([, row]) => row.tr === tr);
    if (!entry) return;
    const [key, row] = entry;
    if (e.target.closest(".twist") || row.data.session) this.toggle(key, row.data);
    else location.hash = key === this.selected ? "#/sandboxes" : `#/sandboxes/${encodeURIComponent(key)}`;
    this.move(key);
  }

  toggle(key, data, open = !data.open) {
    if (!data.children) return;
    if (open) this.live.forest.closed.delete(key);
    else this.live.forest.closed.add(key);
    this.update();
  }

  move(key) {
    const row = this.rows.get(key);
    if (!row) return;
    const before = this.rows.get(this.focus);
    if (before) attr(before.tr, "tabindex", "-1");
    this.focus = key;
    attr(row.tr, "tabindex", "0");
    row.tr.focus({ preventScroll: true });
    row.tr.scrollIntoView({ block: "nearest" });
  }

  searchKey(e) {
    if (e.key === "Escape") { this.search.value = ""; this.live.forest.filter = ""; this.update(); this.move(this.focus); }
    else if (e.key === "ArrowDown" || e.key === "Enter") this.move(this.order[0]?.key);
    else return;
    e.preventDefault();
  }

  key(e) {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const at = this.order.findIndex((r) => r.key === this.focus);
    const r = this.order[at];
    if (!r) return;
    const step = (n) => this.move(this.order[Math.max(0, Math.min(this.order.length - 1, at + n))].key);
    const up = () => { for (let i = at - 1; i >= 0; i--) if (this.order[i].level < r.level) return this.move(this.order[i].key); };
    const does = {
      ArrowDown: () => step(1), j: () => step(1), ArrowUp: () => step(-1), k: () => step(-1),
      PageDown: () => step(20), PageUp: () => step(-20), Home: () => step(-this.order.length), End: () => step(this.order.length),
      ArrowRight: () => (r.children && !r.open ? this.toggle(r.key, r, true) : r.children && step(1)),
      ArrowLeft: () => (r.children && r.open ? this.toggle(r.key, r, false) : up()),
      Enter: () => (r.node ? (location.hash = `#/sandboxes/${encodeURIComponent(r.key)}`) : this.toggle(r.key, r)),
      " ": () => this.toggle(r.key, r),
      Delete: () => r.node && !r.node.ended && this.detail.kill(r.key),
    }[e.key];
    if (!does) return;
    e.preventDefault();
    does();
  }
}

export function nameOf(info) {
  const labels = info?.labels ?? {};
  return labels.name ?? Object.entries(labels).map(([k, v]) => `${k}=${v}`).join(" ");
}

// ends is when a sandbox will be killed if nothing happens, in seconds from now.
export function ends(info) {
  const since = (Date.now() - (info.read ??= Date.now())) / 1000;
  const all = [[info.kill_in_s, "idle"], [info.expires_in_s, "its time is over"]].filter(([s]) => s !== undefined && s !== null);
  if (!all.length) return null;
  const [seconds, why] = all.sort((a, b) => a[0] - b[0])[0];
  return { seconds: Math.max(0, seconds - since), why };
}

function budgetName(line) { return { memory_mib: "memory", output_bytes: "output", vcpu_seconds: "vCPU time", egress_bytes: "egress", sandbox_seconds: "sandbox time", kept_bytes: "kept on disk" }[line.resource] ?? line.resource; }

export function meter(line) {
  const part = line.limit > 0 ? Math.min(1, line.used / line.limit) : 0;
  const fillIn = el("i");
  fillIn.style.width = `${(part * 100).toFixed(1)}%`;
  return el("div", { class: "meter", role: "meter", "aria-valuemin": "0", "aria-valuemax": String(line.limit), "aria-valuenow": String(Math.min(line.used, line.limit)),
    "aria-label": plain(`${budgetName(line)} used`), "data-level": part >= 1 ? "full" : part >= .8 ? "high" : "low" }, fillIn);
}
