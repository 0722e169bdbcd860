// How figures are written.

export function bytes(n) {
  if (n < 1024) return `${n} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let i = -1;
  do { n /= 1024; i++; } while (n >= 1023.5 && i < units.length - 1);
  return `${n >= 99.5 ? Math.round(n) : n.toFixed(1).replace(/\.0$/, "")} ${units[i]}`;
}

export const mebibytes = (n) => bytes(n * 1024 * 1024);

// span is a length of time in its two largest units.
export function span(seconds) {
  seconds = Math.max(0, Math.round(seconds));
  const parts = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];
  const at = parts.findIndex(([, size]) => seconds >= size);
  if (at < 0) return "0s";
  const [unit, size] = parts[at];
  const rest = seconds % size;
  const next = parts[at + 1];
  const second = next && Math.floor(rest / next[1]);
  return `${Math.floor(seconds / size)}${unit}${second ? ` ${second}${next[0]}` : ""}`;
}

export function milliseconds(ms) {
  if (ms === undefined || ms === null) return "";
  return ms < 1000 ? `${ms} ms` : ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : span(ms / 1000);
}

export const count = (n) => new Intl.NumberFormat("en").format(n);

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { year: "numeric", month: "2-digit", day: "2-digit" });

// time is the hour of a moment, with the day unless it is today.
export function time(iso) {
  const d = new Date(iso);
  if (Number.isNaN(d.getTime())) return "";
  const today = day.format(new Date());
  return (day.format(d) === today ? "" : `${day.format(d)} `) + clock.format(d);
}

// of is what a budget's figures are written in.
export function resource(name, n) {
  switch (name) {
    case "memory_mib": return mebibytes(n);
    case "output_bytes": case "egress_bytes": case "kept_bytes": return bytes(n);
    case "sandbox_seconds": case "vcpu_seconds": return span(n);
    default: return count(n);
  }
}

export function resourceName(name) {
  return { sandboxes: "Sandboxes", memory_mib: "Memory", sandbox_seconds: "Sandbox time", output_bytes: "Output", vcpu_seconds: "vCPU time", egress_bytes: "Egress", snapshots: "Snapshots", templates: "Templates", kept_bytes: "Kept on disk" }[name] ?? name.replaceAll("_", " ");
}
