// The server: requests under /v1 with the token, and its stream of events.

const root = "/v1";

// The token is kept in this tab, and goes with it. It is in no cookie, so no other page can send requests with it, and
// in no address.
const kept = "aether-token";
let token = sessionStorage.getItem(kept) ?? "";

export const session = {
  has: () => token !== "",
  begin(t) { token = t; if (t) sessionStorage.setItem(kept, t); },
  end() { token = ""; sessionStorage.removeItem(kept); },
};

// Problem is an answer that is an error, or none.
export class Problem extends Error {
  constructor(status, body) {
    super(body.cause ?? body.detail ?? body.title ?? `status ${status}`);
    this.status = status;
    this.code = body.code ?? "";
    this.remedy = body.remedy ?? "";
  }
  get offline() { return this.status === 0; }
  get refused() { return this.status === 401; }
}

async function send(method, path, { body, signal, accept } = {}) {
  const headers = { Accept: accept ?? "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(root + path, {
      method, headers, signal, cache: "no-store", credentials: "omit", redirect: "error", referrerPolicy: "no-referrer",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (e) {
    if (signal?.aborted) throw e;
    throw new Problem(0, { cause: "The server does not answer.", remedy: "Is `aether serve` running?" });
  }
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
  return response;
}

async function get(path, signal) { return (await send("GET", path, { signal })).json(); }

// all reads the pages of a list, up to a bound.
async function all(path, field, signal, bound = 2000) {
  const list = [];
  for (let cursor; ;) {
    const page = await get(`${path}${path.includes("?") ? "&" : "?"}limit=1000${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`, signal);
    list.push(...(page[field] ?? []));
    cursor = page.next;
    if (!cursor || list.length >= bound) return list;
  }
}

const id = encodeURIComponent;

export const api = {
  server: () => get(""),
  whoami: (signal) => get("/whoami", signal),
  sandboxes: (signal) => all("/sandboxes", "sandboxes", signal),
  sandbox: (sb, signal) => get(`/sandboxes/${id(sb)}`, signal),
  sessions: (signal) => all("/sessions", "sessions", signal),
  stats: (sb, signal) => get(`/sandboxes/${id(sb)}/stats`, signal),
  processes: (sb, signal) => all(`/processes?sandbox=${id(sb)}`, "processes", signal, 200),
  output: (process, stream, offset, signal) => get(`/outputs/${id(process)}?stream=${stream}&offset=${offset}`, signal),
  audit: (sb, cursor, limit, signal) =>
    get(`/audit?limit=${limit}${sb ? `&sandbox=${id(sb)}` : ""}${cursor ? `&cursor=${id(cursor)}` : ""}`, signal),
  kill: (sb) => send("DELETE", `/sandboxes/${id(sb)}`),
  pause: (sb) => send("POST", `/sandboxes/${id(sb)}/pause`),
  resume: (sb) => send("POST", `/sandboxes/${id(sb)}/resume`),
  signal: (process, name) => send("POST", `/processes/${id(process)}/signal`, { body: { signal: name } }),
};

// events reads the stream of events and calls f with each, until the stream ends or fails. A stream that is silent for
// too long is taken for dead: the server sends something every 15 seconds.
export async function events(f, signal) {
  const silence = new AbortController();
  let timer;
  const heard = () => { clearTimeout(timer); timer = setTimeout(() => silence.abort(), 40000); };
  heard();
  try {
    const response = await send("GET", "/events", { signal: AbortSignal.any([signal, silence.signal]), accept: "text/event-stream" });
    if (!(response.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) throw new Problem(response.status, { cause: "The server has no stream of events." });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done) return;
      heard();
      rest += value;
      const blocks = rest.split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block.split("\n").filter((l) => l.startsWith("data:")).map((l) => l.slice(5)).join("\n");
        if (data) f(JSON.parse(data));
      }
    }
  } finally {
    clearTimeout(timer);
    silence.abort();
  }
}
