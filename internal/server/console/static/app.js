// The console: signing in, the bar, and which view is shown.
import { $, attr, el, fill, plain, put } from "./dom.js";
import { api, session, Problem } from "./api.js";
import { Live } from "./live.js";
import { Tree } from "./tree.js";
import { Audit, Budgets } from "./pages.js";

const main = $("main");
let live = null, views = null, shown = null;

// What a view does that changes something.
const act = {
  async run(f, said) {
    try {
      await f();
      note(said);
    } catch (e) {
      note([e.message, e.remedy].filter(Boolean).join(" — "), true);
      if (e instanceof Problem && e.refused) signOut("The token is no longer valid.");
    }
    live?.soon();
  },
  sure(title, lines, verb) {
    return ask(title, [lines.filter(Boolean).map((l) => el("p", { text: l }))], [["Cancel", ""], [verb, "danger sure"]]).then((answer) => answer === verb);
  },
};

let asked = 0; // questions so far

function ask(title, content, buttons) {
  const dialog = $("dialog");
  if (dialog.open) return Promise.resolve("");
  const question = ++asked;
  let answer = "";
  const form = el("div", { class: "act" }, buttons.map(([name, kind], i) => el("button", { type: "button", class: kind || null, autofocus: i === 0, on: { click: () => { answer = name; dialog.close(); } } }, name)));
  fill(dialog, el("h2", { id: "dialog-title", text: title }), content, form);
  dialog.showModal();
  // The event comes a while after the dialog has closed, when the next question may be there.
  return new Promise((resolve) => {
    const closed = () => {
      if (question === asked) {
        if (dialog.open) return; // it was of the question before
        fill(dialog);
      }
      dialog.removeEventListener("close", closed);
      resolve(answer);
    };
    dialog.addEventListener("close", closed);
  });
}

function note(text, bad) {
  const node = el("div", { class: bad ? "note bad" : "note", text });
  $("notes").append(node);
  setTimeout(() => node.remove(), bad ? 9000 : 4000);
}

function changed() {
  if (!live) return;
  if (live.problem?.refused) { signOut("The server does not know this token."); return; }
  const says = { connecting: "Connecting", live: "Live", polling: "Every 3 s", offline: "Offline" }[live.state];
  $("live").hidden = false;
  attr($("live"), "data-state", live.state);
  put($("live"), says);
  const banner = $("banner");
  banner.hidden = !live.problem;
  if (live.problem) fill(banner, el("span", { text: live.problem.message }), el("span", { class: "soft", text: [live.problem.remedy, live.loaded ? "What is shown may be old." : ""].filter(Boolean).join(" ") }));
  if (live.who) {
    const { tenant, auth } = live.who;
    const key = JSON.stringify(live.who.tenant);
    $("who").hidden = false;
    if ($("who").dataset.key !== key) {
      $("who").dataset.key = key;
      fill($("who"), el("b", { text: tenant.name, title: plain(`May ${tenant.capabilities.join(", ")}`) }), !live.can("exec") && el("span", { class: "tag", text: "read only" }));
    }
    $("out").hidden = auth === "none";
  }
  shown?.update();
}

function route() {
  if (!live) return;
  const [, name = "", id = ""] = location.hash.slice(1).split("/");
  let chosen;
  try { chosen = decodeURIComponent(id); } catch { chosen = ""; }
  const view = views[name] ?? views.sandboxes;
  for (const a of $("nav").children) attr(a, "aria-current", views[a.hash.slice(2)] === view ? "page" : null);
  if (shown !== view) shown?.hide();
  if (shown !== view || view === views.sandboxes) {
    shown = view;
    view.show(main, chosen);
  }
}

function begin() {
  live = new Live(changed);
  views = { sandboxes: new Tree(live, act), budgets: new Budgets(live), audit: new Audit(live) };
  $("nav").hidden = false;
  fill(main);
  shown = null;
  route();
  live.start();
  changed();
}

function signOut(why) {
  session.end();
  live?.stop();
  shown?.hide();
  live = views = shown = null;
  for (const id of ["nav", "live", "who", "out", "banner"]) $(id).hidden = true;
  delete $("who").dataset.key;
  fill($("who"));
  if ($("dialog").open) $("dialog").close("");
  signIn(why);
}

function signIn(why) {
  const input = el("input", { type: "password", id: "token", name: "token", required: true, autocomplete: "off", spellcheck: "false", placeholder: "aether_…" });
  const wrong = el("p", { class: "wrong", role: "alert", text: why ?? "", hidden: !why });
  const button = el("button", { class: "main", type: "submit" }, "Sign in");
  const form = el("form", { class: "sign", on: {
    submit: async (e) => {
      e.preventDefault();
      button.disabled = true;
      session.begin(input.value.trim());
      try {
        await api.whoami();
        begin();
      } catch (err) {
        session.end();
        wrong.hidden = false;
        put(wrong, err.refused ? "The server does not know this token." : [err.message, err.remedy].filter(Boolean).join(" "));
        button.disabled = false;
        input.select();
      }
    },
  } },
  el("h1", { text: "aether console" }), el("label", {}, "Token of a tenant", input), wrong, button,
  el("p", { class: "soft" }, el("code", { text: "aether serve" }), " writes tokens to files: ", el("code", { text: "token" }), " in its state directory, or those of ", el("code", { text: "--tenant" }),
    ". One of ", el("code", { text: "--view-token" }), " shows everything and changes nothing. The token stays in this tab."));
  fill(main, form);
  input.focus();
}

const themes = ["auto", "light", "dark"];
function theme(name) {
  attr(document.documentElement, "data-theme", name === "auto" ? null : name);
  put($("theme"), { auto: "◐ Auto", light: "☼ Light", dark: "☾ Dark" }[name]);
  localStorage.setItem("aether-theme", name);
}

function keys() {
  const list = [["/", "to the filter"], ["↑ ↓", "from row to row"], ["← →", "close and open what is beneath a row"], ["Enter", "show the sandbox"], ["Esc", "back"],
    ["Delete", "kill the sandbox"], ["1 2 3", "sandboxes, budgets, audit"], ["?", "this"]];
  ask("Keys", el("div", { class: "keys" }, list.map(([key, text]) => [el("span", {}, key.split(" ").map((k) => [el("kbd", { text: k }), " "])), el("span", { text })])), [["Close", ""]]);
}

document.addEventListener("keydown", (e) => {
  if (!live || e.ctrlKey || e.metaKey || e.altKey || $("dialog").open || e.defaultPrevented) return;
  const typing = e.target.matches?.("input");
  if (e.key === "Escape" && !typing && location.hash.split("/")[2]) location.hash = "#/sandboxes";
  else if (typing) return;
  else if (e.key === "/" && shown === views.sandboxes) views.sandboxes.search.focus();
  else if (e.key === "?") keys();
  else if ("123".includes(e.key)) location.hash = ["#/sandboxes", "#/budgets", "#/audit"][e.key - 1];
  else return;
  e.preventDefault();
});

window.addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => { if (!document.hidden) live?.soon(); });
$("out").addEventListener("click", () => signOut());
$("keys").addEventListener("click", keys);
$("theme").addEventListener("click", () => theme(themes[(themes.indexOf(localStorage.getItem("aether-theme") ?? "auto") + 1) % 3]));
setInterval(() => shown?.tick(), 1000);

theme(themes.includes(localStorage.getItem("aether-theme")) ? localStorage.getItem("aether-theme") : "auto");
// A server that asks for no token says so.
api.server().then((s) => (s.auth === "none" || session.has() ? begin() : signIn()), () => (session.has() ? begin() : signIn()));
