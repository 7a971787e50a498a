// The page of clusters.

import { row } from "./cards.js";
import { about, ask, guarded, make, notify, slashFocuses } from "./common.js";

const list = document.getElementById("clusters");
const order = document.getElementById("order");
const find = document.getElementById("find");
let clusters = [];

function share(value) {
  return value === null ? "not known" : `${Math.round(100 * value)} % agree`;
}

async function fill(box, cluster, names) {
  const between = cluster.between.map(([clip]) => clip);
  const rows = [...new Set([...cluster.nearest, ...between])];
  const clips = rows.length ? await ask("/api/clips", { rows: rows.join(",") }) : [];
  const found = new Map(clips.map((clip) => [clip.row, clip]));
  const nearest = make("ol", { class: "rows" }, ...cluster.nearest.map((each) => row(found.get(each))));
  const others = make("ol", { class: "rows" }, ...cluster.between.map(([each, other]) =>
    row(found.get(each), `or ${other} ${names.get(other) || ""}`)));
  const links = make("p", {}, make("a", { href: `/?cluster=${cluster.code}` }, "Search in this cluster"), " · ",
    make("a", { href: `/map?colour=cluster&only=${cluster.code}` }, "Show it on the map"));
  box.replaceChildren(links, make("div", { class: "columns" },
    make("section", {}, make("h2", {}, "Nearest to its middle"), nearest),
    make("section", {}, make("h2", {}, "Between two clusters"), others)));
}

function entry(cluster, most, names) {
  const bar = make("span");
  bar.style.width = `${100 * cluster.size / most}%`;
  const box = make("div", {}, make("p", { class: "soft" }, "…"));
  const details = make("details", { id: String(cluster.code) },
    make("summary", {}, make("span", { class: "name" }, `${cluster.code} ${cluster.label || "(no words)"}`),
      make("span", { class: "soft" }, `${cluster.size.toLocaleString("en")} clips`,
        make("span", { class: "bar", "aria-hidden": "true" }, bar)),
      make("span", { class: "soft" }, share(cluster.agreement))), box);
  details.querySelector(".bar").style.display = "block";
  details.addEventListener("toggle", () => {
    if (!details.open || box.dataset.filled) return;
    box.dataset.filled = "1";
    guarded(() => fill(box, cluster, names));
  });
  return details;
}

function show() {
  const by = order.value;
  const wanted = find.value.trim().toLowerCase();
  const names = new Map(clusters.map((cluster) => [cluster.code, cluster.label]));
  const compare = {
    size: (a, b) => b.size - a.size,
    agreement: (a, b) => (b.agreement ?? -1) - (a.agreement ?? -1),
    label: (a, b) => a.label.localeCompare(b.label),
    code: (a, b) => a.code - b.code,
  }[by];
  const some = clusters.filter((cluster) => `${cluster.code} ${cluster.label}`.toLowerCase().includes(wanted)).sort(compare);
  const most = Math.max(1, ...clusters.map((cluster) => cluster.size));
  list.replaceChildren(...some.map((cluster) => entry(cluster, most, names)));
  if (!clusters.length) notify("This index has no clusters: its model was trained without clustering.");
}

function openLinked() {
  const linked = location.hash && document.getElementById(location.hash.slice(1));
  if (linked?.tagName !== "DETAILS") return;
  linked.open = true;
  linked.scrollIntoView();
  linked.querySelector("summary").focus();
}

order.addEventListener("change", show);
find.addEventListener("input", show);
addEventListener("hashchange", openLinked);
slashFocuses(find);
guarded(async () => {
  notify("Comparing clips with clusters …");
  [clusters] = await Promise.all([ask("/api/clusters"), about()]);
  notify("");
  show();
  openLinked();
});
