// The fork tree as data: which sandbox stands beneath which, what has ended, and which rows are seen.

// How long a sandbox that has ended is still shown, in milliseconds; one with living children stays.
const lingering = 5000;

export class Forest {
  nodes = new Map(); // by ID: {id, info, session, parent, children, ended}
  sessions = new Map(); // by name: {id, roots}
  closed = new Set(); // keys of what is collapsed
  filter = "";
  order = 0; // of the next node

  // update takes the list of sandboxes that are alive, each with its session.
  update(list, now = Date.now()) { // the list is in the order of creation, and so are the rows
    const alive = new Set(list.map((s) => s.id));
    for (const info of list) {
      const node = this.nodes.get(info.id);
      if (node) node.info = info;
      else this.nodes.set(info.id, { id: info.id, info, session: info.session, parent: info.parent, ended: 0, order: this.order++ });
    }
    for (const node of this.nodes.values()) {
      if (!alive.has(node.id)) node.ended ||= now;
    }
    // A parent that was gone before this page was opened.
    for (const node of [...this.nodes.values()]) {
      if (node.parent && !this.nodes.has(node.parent)) {
        this.nodes.set(node.parent, { id: node.parent, info: null, session: node.session, parent: "", ended: 1, order: node.order });
      }
    }
    this.link();
    this.prune(now);
  }

  link() {
    this.sessions.clear();
    for (const node of this.nodes.values()) node.children = [];
    for (const node of this.nodes.values()) {
      const parent = node.parent && this.nodes.get(node.parent);
      if (parent) parent.children.push(node);
      else {
        if (!this.sessions.has(node.session)) this.sessions.set(node.session, { id: node.session, roots: [] });
        this.sessions.get(node.session).roots.push(node);
      }
    }
    const order = (a, b) => a.order - b.order;
    for (const node of this.nodes.values()) node.children.sort(order);
    for (const session of this.sessions.values()) session.roots.sort(order);
  }

  // prune forgets what has ended, a while ago, and has nothing alive beneath it. It tells whether there was any.
  prune(now) {
    const keep = (node) => {
      const below = node.children.map(keep).some(Boolean);
      if (!node.ended || below || now - node.ended < lingering) return true;
      this.nodes.delete(node.id);
      return false;
    };
    const before = this.nodes.size;
    for (const session of this.sessions.values()) session.roots.forEach(keep);
    if (this.nodes.size === before) return false;
    this.link();
    return true;
  }

  matches(node) {
    if (!this.filter) return true;
    const i = node.info;
    const text = [node.id, node.session, ...(i ? [i.system, i.state, i.image, i.network, ...Object.entries(i.labels ?? {}).flat()] : [])];
    const all = text.join(" ").toLowerCase();
    return this.filter.toLowerCase().split(/\s+/).every((word) => all.includes(word));
  }

  // rows are what is to be seen, from above to below. A node that does not match the filter is there, dimmed, if one
  // beneath it does.
  rows() {
    const rows = [];
    const found = new Map();
    const search = (node) => {
      const below = node.children.map(search).some(Boolean);
      const here = this.matches(node);
      found.set(node, { here, any: here || below });
      return here || below;
    };
    const walk = (nodes, level, guides) => {
      const shown = nodes.filter((n) => found.get(n).any);
      shown.forEach((node, i) => {
        const last = i === shown.length - 1;
        const children = node.children.some((c) => found.get(c).any);
        const open = !this.closed.has(node.id) || this.filter !== "";
        rows.push({ key: node.id, node, level, guides: [...guides, last ? "elbow" : "tee"], children, open, dim: !found.get(node).here,
          position: i + 1, size: shown.length });
        if (children && open) walk(node.children, level + 1, [...guides, last ? "blank" : "line"]);
      });
    };
    const sessions = [...this.sessions.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
    for (const session of sessions) {
      if (session.roots.map(search).every((any) => !any)) continue;
      const key = `session ${session.id}`;
      const open = !this.closed.has(key) || this.filter !== "";
      rows.push({ key, session, level: 1, guides: [], children: true, open });
      if (open) walk(session.roots, 2, []);
    }
    return rows;
  }

  // living counts the sandboxes of a session, or of all.
  living(session) {
    let n = 0;
    for (const node of this.nodes.values()) if (!node.ended && (session === undefined || node.session === session)) n++;
    return n;
  }

  // below are the living descendants of a sandbox.
  below(id) {
    const node = this.nodes.get(id);
    if (!node) return 0;
    return node.children.reduce((n, c) => n + (c.ended ? 0 : 1) + this.below(c.id), 0);
  }
}
