// The views of budgets and of the audit log.
import { attr, el, fill, put } from "./dom.js";
import { count, milliseconds, resource, resourceName, time } from "./format.js";
import { api } from "./api.js";
import { meter } from "./tree.js";

export class Budgets {
  constructor(live) { this.live = live; this.page = el("div", { class: "page" }); this.root = el("div", { class: "scroll" }, this.page); }

  show(main) { fill(main, this.root); this.shown = ""; this.update(); }

  update() {
    const { live } = this;
    const key = JSON.stringify([live.who?.budget, live.sessions]);
    if (!live.loaded || key === this.shown) return;
    this.shown = key;
    fill(this.page,
      section(`Tenant ${live.who.tenant.name}`, "All its sessions together.", live.who.budget),
      live.sessions.map((s) => section(`Session ${s.id}`,
        `${count(s.sandboxes)} ${s.sandboxes === 1 ? "sandbox" : "sandboxes"}; may ${(s.capabilities ?? []).join(", ") || "do nothing"}.`, s.budget)),
      live.sessions.length === 0 && el("p", { class: "soft", text: "No session is open." }));
  }

  tick() {}
  hide() {}
}

function section(title, about, budget) {
  const lines = budget?.lines ?? [];
  const ends = budget?.window_ends && `What adds up begins at zero again at ${time(budget.window_ends)}.`;
  return el("section", {}, el("h2", { text: title }), el("p", { class: "soft", text: [about, lines.length ? ends : "No bounds are set."].filter(Boolean).join(" ") }),
    lines.length > 0 && el("div", { class: "budget" }, lines.map((l) => el("div", {},
      el("div", { class: "soft", text: resourceName(l.resource) }),
      el("div", {}, el("b", { text: resource(l.resource, l.used) }), el("span", { class: "soft", text: ` of ${resource(l.resource, l.limit)}, ${resource(l.resource, l.left)} left` })),
      meter(l)))));
}

const pageSize = 200;

export class Audit {
  constructor(live) {
    this.live = live;
    this.about = el("span", { class: "soft", role: "status" });
    this.list = el("div", {});
    this.older = el("button", { type: "button", hidden: true, on: { click: () => this.more() } }, "Older entries");
    this.root = [el("div", { class: "tools" }, this.about), el("div", { class: "scroll" }, this.list, el("div", { class: "tools" }, this.older))];
  }

  show(main) {
    fill(main, this.root);
    this.stopping = new AbortController();
    this.pages = 0;
    this.marks = -1;
    this.update();
  }

  hide() { this.stopping?.abort(); }
  tick() {}

  update() {
    // Once older pages are there, they are not moved under the reader's eyes.
    if (this.pages > 1 || this.marks === this.live.marks && this.live.state === "live") return;
    this.marks = this.live.marks;
    this.read("");
  }

  more() { this.read(this.next); }

  async read(cursor) {
    const { signal } = this.stopping;
    if (this.busy) return;
    this.busy = true;
    try {
      const page = await api.audit("", cursor, pageSize, signal);
      if (cursor) {
        this.entries.push(...page.entries);
        this.pages++;
      } else {
        this.entries = page.entries;
        this.pages = 1;
      }
      this.next = page.next;
      this.older.hidden = !page.next;
      const key = JSON.stringify(this.entries);
      if (key !== this.shown || !this.list.firstChild) {
        this.shown = key;
        fill(this.list, this.entries.length ? auditTable(this.entries, {}) : el("div", { class: "empty" }, el("h2", { text: "No entries" }),
          el("p", { text: page.next ? "None among the latest; there may be older ones." : "What is done with this tenant's sandboxes is written here." })));
      }
      put(this.about, this.pages > 1 ? `${count(this.entries.length)} entries; newer ones are shown when you come back to this view` : "");
    } catch (e) {
      if (!signal.aborted) { fill(this.list, el("div", { class: "empty" }, el("h2", { text: "The audit log cannot be read" }), el("p", { text: [e.message, e.remedy].filter(Boolean).join(" — ") }))); this.shown = ""; }
    } finally { this.busy = false; }
  }
}

export function auditTable(entries, { short }) {
  const what = (e) => [...Object.entries(e.what ?? {}).map(([k, v]) => (k === "command" ? v : `${k}=${v}`)), e.cause].filter(Boolean).join(" · ");
  const open = (e) => {
    const tr = e.currentTarget;
    if (e.type === "keydown" && e.key !== "Enter" || e.target.closest("a")) return;
    tr.classList.toggle("open");
  };
  return el("table", { class: short ? "audit list" : "audit" },
    !short && el("thead", {}, el("tr", {}, ["Time", "Session", "Operation", "Sandbox", "Particulars", "Result"].map((t) => el("th", { scope: "col", text: t })), el("th", { class: "num", scope: "col", text: "Took" }))),
    el("tbody", {}, entries.map((e) => el("tr", { class: e.result === "ok" ? null : "refused", tabindex: short ? null : "0", on: short ? {} : { click: open, keydown: open } },
      el("td", { class: "time soft", text: time(e.time) }),
      !short && el("td", { text: e.session ?? "" }),
      el("td", { text: e.op }),
      !short && el("td", {}, e.sandbox && el("a", { class: "id", href: `#/sandboxes/${encodeURIComponent(e.sandbox)}`, text: e.sandbox })),
      el("td", { class: short ? "wide soft" : "what soft" }, el("code", { text: what(e) })),
      el("td", { class: "result", text: e.result }),
      el("td", { class: "num soft", text: milliseconds(e.duration_ms) })))));
}
