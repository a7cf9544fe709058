// Keeps the parts of a page fresh that are marked data-live: asks for the page again and puts in what differs.
// Nodes that stay the same stay in place, and so do focus, scroll positions and opened details.
"use strict";

const EVERY = 5000;
const PATIENCE = 10000;
const bar = document.getElementById("live");
const button = bar.querySelector("button");
const status = bar.querySelector("[role=status]");
const always = status.textContent;
let timer = null;
let paused = false;
let over = false;
let asking = false;

function say(words) {
  // A screen reader hears every change, so only news is written.
  if (status.textContent !== words) status.textContent = words;
}

function putIn(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
    replace(old, fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  putInChildren(old, fresh);
}

function putInChildren(old, fresh) {
  let at = old.firstChild;
  const removeOne = () => {
    const gone = at;
    at = at.nextSibling;
    remove(gone);
  };
  for (const child of [...fresh.childNodes]) {
    // What has an id stays itself: a new row is put before it, and what stood between is gone.
    const same = child.id ? from(at, child.id) : null;
    while (same && at !== same) removeOne();
    if (same || (at && !at.id && !child.id)) {
      const next = at.nextSibling;
      putIn(at, child);
      at = next;
    } else {
      const added = document.importNode(child, true);
      if (added.id) added.classList.add("fresh");
      old.insertBefore(added, at);
    }
  }
  while (at) removeOne();
}

function from(at, id) {
  let node = at;
  while (node && node.id !== id) node = node.nextSibling;
  return node;
}

function replace(old, fresh) {
  const focused = old.contains(document.activeElement);
  const added = document.importNode(fresh, true);
  const parent = old.parentElement;
  old.replaceWith(added);
  if (focused) keepFocusNear(parent);
}

function remove(old) {
  const focused = old.contains(document.activeElement);
  const parent = old.parentElement;
  old.remove();
  if (focused) keepFocusNear(parent);
}

function keepFocusNear(element) {
  const near = element.closest("[tabindex]") || element.closest("[data-live]");
  if (!near.hasAttribute("tabindex")) near.tabIndex = -1;
  near.focus({ preventScroll: true });
}

async function refresh() {
  if (asking) return;
  asking = true;
  const page = await ask();
  asking = false;
  if (page && !paused) show(page);
}

async function ask() {
  let answer, text;
  try {
    // A refresh is no use of the session: it ends in time, though its page stays open.
    answer = await fetch(location.href, {
      headers: { Accept: "text/html", "Live-Refresh": "1" },
      redirect: "manual",
      signal: AbortSignal.timeout(PATIENCE),
    });
    text = await answer.text();
  } catch {
    troubled("The server cannot be reached");
    return null;
  }
  if (answer.type === "opaqueredirect") {
    over = true;
    say("The session has ended. Load the page again to log in.");
  } else if (!answer.ok) {
    troubled(`The server answers ${answer.status}`);
  } else {
    return new DOMParser().parseFromString(text, "text/html");
  }
  return null;
}

function show(page) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(part.id);
    if (fresh) putIn(part, fresh);
  }
  bar.classList.remove("troubled");
  say(always);
  if (over) {
    // Somebody logged in again on another page.
    over = false;
    schedule();
  }
}

function troubled(what) {
  if (!bar.classList.contains("troubled")) {
    bar.classList.add("troubled");
    say(`${what}. What is shown here is of ${new Date().toISOString().slice(11, 19)} UTC or older.`);
  }
}

function schedule() {
  clearInterval(timer);
  timer = null;
  if (!paused && !over && !document.hidden) timer = setInterval(() => (over ? schedule() : refresh()), EVERY);
}

button.addEventListener("click", () => {
  paused = !paused;
  button.setAttribute("aria-pressed", String(paused));
  say(paused ? "Paused." : always);
  if (!paused) refresh();
  schedule();
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !paused) refresh();
  schedule();
});

bar.hidden = false;
schedule();
