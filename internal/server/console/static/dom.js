// Elements are made here and nowhere else. Text becomes text nodes, never markup: what a guest wrote cannot be
// an element. The page's Trusted Types policy makes sure that nobody takes another way.

// The characters that change how the text around them is shown, or that are not shown at all.
const unseen = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e0fff}]/gu;

// plain makes such characters visible: a text then is what it looks like.
export function plain(text) {
  return String(text).replace(unseen, (c) => `⟨${c.codePointAt(0).toString(16).toUpperCase().padStart(2, "0")}⟩`);
}

const svgTags = new Set(["svg", "path", "polyline", "line"]);

// el makes an element. attributes: "class", "text", "on" (an object of listeners), and attributes of HTML; false and
// null leave one out.
export function el(tag, attributes, ...children) {
  const node = svgTags.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "text") node.textContent = plain(value);
    else if (name === "on") for (const [event, f] of Object.entries(value)) node.addEventListener(event, f);
    else node.setAttribute(name, value === true ? "" : value);
  }
  add(node, children);
  return node;
}

function add(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(plain(child)));
  }
}

// fill replaces what node holds.
export function fill(node, ...children) {
  node.replaceChildren();
  add(node, children);
  return node;
}

// put sets a text, and touches the document only if it is another one.
export function put(node, text) {
  const shown = plain(text);
  if (node.textContent !== shown) node.textContent = shown;
}

// attr sets an attribute, or takes it away; the document is touched only if that changes something.
export function attr(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, String(value));
}

export const $ = (id) => document.getElementById(id);
