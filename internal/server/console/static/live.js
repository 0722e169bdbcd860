// What the console knows of the server, kept up to date: by events, and where there are none by asking again.
import { api, events, session, Problem } from "./api.js";
import { Forest } from "./forest.js";

const pollEvery = 3000; // ms, while there is no stream
const checkEvery = 20000; // ms, while there is one
const atMost = 400; // ms between two looks at the lists

export class Live {
  who = null; // {tenant, auth, budget}
  sessions = [];
  forest = new Forest();
  loaded = false;
  state = "connecting"; // "live", "polling", "offline"
  problem = null;
  causes = new Map(); // why sandboxes have ended, by ID, as events said
  marks = 0; // counts events; views that show more than the lists read again when it changes

  constructor(changed) { this.changed = changed; }

  can(capability) { return Boolean(this.who?.tenant.capabilities.includes(capability)); }

  start() {
    this.stopping = new AbortController();
    this.loop(this.stopping.signal);
    this.listen(this.stopping.signal);
  }

  stop() { this.stopping?.abort(); }

  // soon has the lists read again, now or a moment after they were read last.
  soon() { this.wanted = true; this.wake?.(); }

  async loop(signal) {
    let wait = 0;
    while (!signal.aborted) {
      this.wanted = false;
      try {
        await this.load(signal);
        wait = this.state === "live" ? checkEvery : pollEvery;
      } catch (e) {
        if (signal.aborted) return;
        this.fail(e);
        wait = Math.min(15000, Math.max(pollEvery, wait * 1.5));
      }
      this.changed();
      await pause(atMost, signal);
      if (!this.wanted) {
        await new Promise((resolve) => {
          const timer = setTimeout(resolve, wait - atMost);
          this.wake = () => { clearTimeout(timer); resolve(); };
          signal.addEventListener("abort", this.wake, { once: true });
        });
      }
    }
  }

  async load(signal) {
    const [who, sandboxes, sessions] = await Promise.all([api.whoami(signal), api.sandboxes(signal), api.sessions(signal)]);
    this.who = who;
    this.sessions = sessions;
    this.forest.update(sandboxes);
    this.loaded = true;
    this.problem = null;
    if (this.state !== "live") this.state = this.streaming ? "live" : "polling";
  }

  fail(e) {
    this.problem = e instanceof Problem ? e : new Problem(-1, { cause: String(e.message ?? e) });
    if (this.problem.offline) this.state = "offline";
  }

  remember({ sandbox, cause }) {
    if (this.causes.size >= 1000) this.causes.delete(this.causes.keys().next().value);
    this.causes.set(sandbox, cause);
  }

  async listen(signal) {
    for (let wait = 1000; !signal.aborted; wait = Math.min(30000, wait * 2)) {
      try {
        await events((event) => {
          if (!this.streaming) { this.streaming = true; wait = 1000; }
          this.state = "live";
          if (event.type !== "hello") this.marks++;
          if (event.type === "sandbox.killed") this.remember(event);
          this.soon();
        }, signal);
      } catch { /* the lists are read all the same, and say what is wrong */ }
      this.streaming = false;
      if (this.state === "live") this.state = "polling";
      if (signal.aborted || !session.has() && this.who?.auth !== "none") return;
      this.soon();
      await pause(wait, signal);
    }
  }
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
