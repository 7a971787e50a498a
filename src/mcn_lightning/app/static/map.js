// The page of the map.

import { address, row, span, still } from "./cards.js";
import { about, ask, choices, guarded, make, named, notify, numbers } from "./common.js";
import { control, middle } from "./lasso.js";
import { Scatter, colourOf } from "./scatter.js";

const LISTED = 100; // clips of a list
const WAIT = 150; // ms that the pointer rests before a picture is asked for
const COLOURS = { cluster: "cluster", topic: "topic", video: "video" };

const field = (name) => document.getElementById(name);
const params = new URLSearchParams(location.search);
const results = field("results");
const clips = new Map();
let scatter;

async function fetchClips(rows) {
  const missing = rows.filter((each) => !clips.has(each));
  if (missing.length) {
    for (const clip of await ask("/api/clips", { rows: missing.join(",") })) clips.set(clip.row, clip);
  }
  return rows.map((each) => clips.get(each));
}

async function list(rows) {
  const title = field("listed");
  const some = rows.slice(0, LISTED);
  results.replaceChildren(...(await fetchClips(some)).map((clip) => row(clip)));
  title.textContent = `${rows.length.toLocaleString("en")} clips${rows.length > LISTED ? `, the first ${LISTED}` : ""}`;
  title.focus({ preventScroll: innerWidth > 760 });
}

function listView() {
  const [wide, high] = scatter.half;
  const { x, y } = scatter.view;
  const found = [];
  scatter.inBox(x - wide, y - high, x + wide, y + high, (point) => { if (scatter.shown(point)) found.push(point); });
  guarded(() => list(found));
}

function hover() {
  const tip = field("tip");
  let timer = 0;
  let last = -1;
  return (point, x, y) => {
    if (point === last) return;
    last = point;
    clearTimeout(timer);
    tip.hidden = true;
    scatter.canvas.style.cursor = point < 0 ? "" : "pointer";
    if (point < 0) return;
    timer = setTimeout(() => guarded(async () => {
      const [clip] = await fetchClips([point]);
      if (last !== point) return;
      const picture = clip.still ? still(clip, (image) => image.remove()) : null;
      if (picture) picture.loading = "eager";
      tip.replaceChildren(...[picture, make("div", {}, clip.text || clip.id),
        make("div", { class: "soft" }, `${clip.video} · ${span(clip)}`)].filter(Boolean));
      tip.hidden = false;
      const { clientWidth: width, clientHeight: height } = scatter.canvas;
      tip.style.left = `${Math.max(4, x + 240 > width ? x - 232 : x + 14)}px`;
      tip.style.top = `${Math.max(4, Math.min(y + 14, height - tip.offsetHeight - 4))}px`;
    }), WAIT);
  };
}

function remember() {
  const next = new URLSearchParams();
  for (const name of ["modality", "colour"]) next.set(name, field(name).value);
  if (scatter.only >= 0) next.set("only", scatter.only);
  history.replaceState(null, "", `/map?${next}`);
}

function legend(groups, column) {
  field("legend-title").textContent = groups.length ? `By ${COLOURS[column]}` : `No clip has a ${COLOURS[column]}`;
  field("legend").replaceChildren(...groups.map(({ code, size, label }) => {
    const spot = make("canvas", { width: 1, height: 1, "aria-hidden": "true" });
    spot.style.background = colourOf(code, scatter.dark.matches);
    const name = column === "video" ? label : `${code} ${label}`;
    const button = make("button", { type: "button", "aria-pressed": String(scatter.only === code), title: name }, spot,
      make("span", { class: "name" }, name), make("span", { class: "size" }, size.toLocaleString("en")));
    button.addEventListener("click", () => {
      scatter.only = scatter.only === code ? -1 : code;
      for (const other of field("legend").querySelectorAll("button")) {
        other.setAttribute("aria-pressed", String(other === button && scatter.only === code));
      }
      scatter.draw();
      remember();
    });
    return make("li", {}, button);
  }));
}

async function place() {
  scatter.setPlaces(await numbers(`/api/map?modality=${field("modality").value}`, Float32Array));
}

async function colour() {
  const column = field("colour").value;
  const [codes, groups] = await Promise.all([numbers(`/api/codes/${column}`, Int32Array), ask(`/api/groups/${column}`)]);
  scatter.setCodes(codes);
  legend(groups, column);
}

async function start() {
  const found = await about();
  field("modality").append(...choices(found.modalities).map((letters) => make("option", { value: letters }, named(letters))));
  field("colour").append(...found.columns.map((name) => make("option", { value: name }, name)));
  for (const name of ["modality", "colour"]) {
    if ([...field(name).options].some((option) => option.value === params.get(name))) field(name).value = params.get(name);
  }
  scatter = new Scatter(field("canvas"));
  scatter.only = params.has("only") ? Number(params.get("only")) : -1;
  notify(`Placing ${found.clips.toLocaleString("en")} clips …`);
  const begin = performance.now();
  scatter.drawn = () => {
    scatter.drawn = null;
    scatter.canvas.dataset.drawn = String(Math.round(performance.now() - begin));
    notify(scatter.places.notice);
  };
  await Promise.all([place(), colour()]);
  scatter.draw();
  control(scatter, field("drawing"), {
    lassoing: () => field("lasso").getAttribute("aria-pressed") === "true",
    circled: (rows) => guarded(() => list(rows)),
    hovered: hover(),
    clicked: (point) => point >= 0 && guarded(async () => {
      const [clip] = await fetchClips([point]);
      location.assign(address(clip));
    }),
    listed: listView,
  });
  field("in").addEventListener("click", () => middle(scatter, 1.6));
  field("out").addEventListener("click", () => middle(scatter, 1 / 1.6));
  field("whole").addEventListener("click", () => { scatter.home(); scatter.draw(); });
  field("list").addEventListener("click", listView);
  field("modality").addEventListener("change", change(place));
  field("colour").addEventListener("change", change(colour));
}

const change = (work) => () => guarded(async () => {
  scatter.only = -1;
  await work();
  notify(scatter.places.notice);
  scatter.draw();
  remember();
});
field("lasso").addEventListener("click", (event) => {
  const pressed = event.currentTarget.getAttribute("aria-pressed") !== "true";
  event.currentTarget.setAttribute("aria-pressed", String(pressed));
});
guarded(start);
