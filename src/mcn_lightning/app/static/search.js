// The page of search. The address holds the whole query, so links, bookmarks and the back button work by themselves.

import { card, highest } from "./cards.js";
import { about, ask, choices, guarded, make, named, notify, slashFocuses } from "./common.js";
import { suggest, takeFiles } from "./query.js";

const STEP = 24;
const MOST = 200;
const FILTERS = ["by", "modality", "video", "cluster", "from", "to", "per_video", "merge"];
const KEPT = ["file", "use", "like"]; // of the query, beside the words

const form = document.getElementById("form");
const results = document.getElementById("results");
const more = document.getElementById("more");
const params = new URLSearchParams(location.search);
const touched = new Set(form.elements.q.value ? ["q"] : []); // what was typed or chosen before the page knew the index

function go(changed) {
  const next = new URLSearchParams(changed);
  for (const [name, value] of [...next]) if (!value) next.delete(name);
  location.assign(next.size ? `/?${next}` : "/");
}

function fill(found) {
  const modality = document.getElementById("modality");
  const offered = new Set([...choices(found.modalities), params.get("modality") || ""]);
  for (const letters of offered) if (letters) modality.append(make("option", { value: letters }, named(letters)));
  modality.options[0].textContent = `the usual (${named(found.gallery)})`;
  document.getElementById("videos").append(...found.videos.map((video) => make("option", { value: video })));
  if (!found.text) {
    form.elements.by.replaceChildren(make("option", { value: "words" }, "the captions' words"));
  }
  for (const name of FILTERS.filter((each) => !touched.has(each))) {
    const field = form.elements[name];
    const value = params.get(name) || "";
    if (field.type === "checkbox") field.checked = value === "1";
    else if (value || field.tagName !== "SELECT") field.value = value;
  }
  document.getElementById("filters").open = FILTERS.some((name) => params.get(name)) && !params.get("like");
}

function chip(text, removed) {
  const rest = new URLSearchParams(params);
  removed.forEach((name) => rest.delete(name));
  return make("span", { class: "chip" }, text, make("button", { type: "button", "aria-label": `Remove ${text}`,
    onclick: () => go(rest) }, "×"));
}

function showGiven() {
  const given = document.getElementById("given");
  const use = params.get("use") || "va";
  if (params.get("file")) given.append(chip(`your file, by ${named(use)}`, ["file", "use"]));
  if (params.get("like")) {
    const by = params.get("modality");
    given.append(chip(`like ${params.get("like")}${by ? `, by ${named(by)}` : ""}`, ["like", "modality"]));
  }
}

function showFiles(found) {
  if (!found.files.picture && !found.files.sound) return;
  const zone = document.getElementById("drop");
  zone.hidden = false;
  const [field, progress] = [document.getElementById("file"), document.getElementById("progress")];
  takeFiles(zone, field, progress, found.max_upload, (file) => {
    const use = (file.picture && found.files.picture ? "v" : "") + (file.sound && found.files.sound ? "a" : "");
    if (!use) throw new Error(`This index cannot be searched by the ${file.picture ? "picture" : "sound"} of a file.`);
    const next = new URLSearchParams(params);
    ["clip", "like", "k"].forEach((name) => next.delete(name));
    next.set("file", file.file);
    next.set("use", use);
    go(next);
  });
}

function show(clips, notice) {
  const most = highest(clips);
  results.replaceChildren(...clips.map((clip) => make("li", {}, card(clip, most))));
  const said = notice || (clips.length ? "" : "Nothing was found. Try other words, or fewer filters.");
  // what the page says of a file that was given meanwhile stays
  if (!document.getElementById("notice").textContent) notify(said);
}

async function run(count) {
  if (params.get("clip")) {
    show(await ask("/api/clips", { id: params.get("clip") }));
    return;
  }
  const query = new URLSearchParams(params);
  query.set("k", count);
  results.setAttribute("aria-busy", "true");
  const found = await ask("/api/search", query);
  results.removeAttribute("aria-busy");
  show(found.clips, found.notice);
  more.hidden = found.clips.length < count || count >= MOST;
  more.onclick = () => guarded(async () => {
    const before = results.children.length;
    notify("");
    await run(Math.min(MOST, count + STEP));
    results.children[before]?.querySelector("button, a")?.focus();
  });
}

function moveByArrows(event) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const item = event.target.closest("#results > li");
  if (!step || !item || event.target.tagName === "VIDEO") return;
  const other = step > 0 ? item.nextElementSibling : item.previousElementSibling;
  other?.querySelector("button, a, video")?.focus();
  if (other) event.preventDefault();
}

form.addEventListener("input", (event) => touched.add(event.target.name));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const next = new URLSearchParams(new FormData(form));
  for (const name of KEPT) if (params.get(name)) next.set(name, params.get(name));
  go(next);
});
results.addEventListener("keydown", moveByArrows);
slashFocuses(form.elements.q);
suggest(form.elements.q, document.getElementById("suggestions"));

guarded(async () => {
  const found = about().then((told) => { fill(told); showGiven(); showFiles(told); });
  if (!touched.has("q")) form.elements.q.value = params.get("q") || "";
  const first = Math.min(MOST, Math.max(1, Number(params.get("k")) || STEP));
  await Promise.all([found, run(first)]);
  if (!params.size && !form.elements.q.value) form.elements.q.focus({ preventScroll: true });
});
