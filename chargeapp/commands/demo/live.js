"use strict";

const list = document.getElementById("callbacks");
const live = document.getElementById("live");
const liveText = document.getElementById("live-text");
const template = document.getElementById("row");
let shownTotal = Number(document.getElementById("total").textContent);

function makeRow(callback) {
  const row = template.content.firstElementChild.cloneNode(true);
  row.dataset.number = callback.number;
  row.classList.add("new");
  for (const field of row.querySelectorAll("[data-field]")) {
    field.textContent = callback[field.dataset.field] ?? "";
  }
  row.querySelector(".badge").dataset.status = callback.status_class;
  row.querySelector(".signature").dataset.signature = callback.signature;
  row.querySelector("time").dateTime = callback.arrived_at;
  const headers = Object.entries(callback.headers).map(([name, value]) => `${name}: ${value}\n`).join("");
  row.querySelector("[data-field=sent]").textContent = `${headers}\n${callback.body}`;
  return row;
}

function show({ total, callbacks }) {
  if (total === shownTotal) return;
  // The receiver was started again and has forgotten what it had.
  if (total < shownTotal) list.replaceChildren();
  const newest = Number(list.firstElementChild?.dataset.number ?? 0);
  list.prepend(...callbacks.filter((each) => each.number > newest).map(makeRow));
  while (list.children.length > callbacks.length) list.lastElementChild.remove();
  shownTotal = total;
  document.getElementById("total").textContent = total;
  document.getElementById("empty").hidden = callbacks.length > 0;
  const shown = document.getElementById("shown");
  shown.hidden = total <= callbacks.length;
  shown.textContent = `the newest ${callbacks.length} are kept`;
}

async function refresh() {
  try {
    const answer = await fetch("/callbacks.json", { cache: "no-store" });
    show(await answer.json());
    live.dataset.state = "live";
    liveText.textContent = "Live";
  } catch {
    live.dataset.state = "lost";
    liveText.textContent = "Not reachable";
  }
  setTimeout(refresh, 1000);
}

const copy = document.getElementById("copy");
if (copy && navigator.clipboard) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById("example").textContent);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  });
}

refresh();
