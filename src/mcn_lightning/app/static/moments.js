// The score of the query along the time of a clip's video, as a curve below its card.

import { ask, clock, make, notify } from "./common.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 30; // of the curve, in its own units; its width is 100
const KEPT = ["q", "file", "use", "like", "modality"];

function shape(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function draw(moments, clip) {
  const scores = moments.map((moment) => moment.score);
  const [low, high] = [scores.reduce((a, b) => Math.min(a, b)), scores.reduce((a, b) => Math.max(a, b))];
  const begin = moments[0].start;
  const end = moments.reduce((last, moment) => Math.max(last, moment.end), begin);
  const x = (second) => (100 * (second - begin)) / (end - begin || 1);
  const y = (score) => HEIGHT - 1 - ((HEIGHT - 2) * (score - low)) / (high - low || 1);
  const line = moments.map(({ start, end: stop, score }) => `${x(start)},${y(score)} ${x(stop)},${y(score)}`).join(" ");
  const best = moments[scores.indexOf(high)];
  const about = `Score along the video, from ${low.toPrecision(3)} to ${high.toPrecision(3)}`;
  const own = { x: x(clip.start), y: 0, width: Math.max(0, x(clip.end ?? clip.start) - x(clip.start)), height: HEIGHT };
  const picture = shape("svg", { viewBox: `0 0 100 ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": about },
    shape("rect", own), shape("polyline", { points: line, "vector-effect": "non-scaling-stroke" }));
  const link = make("a", { href: `/?${new URLSearchParams({ clip: best.id })}` }, `${clock(best.start)}–${clock(best.end)}`);
  return make("div", { class: "moments" }, picture,
    make("p", { class: "soft" }, `${clock(begin)} to ${clock(end)}, highest at `, link));
}

/** A button that shows the curve; `null` where the page has no query with an embedding, or the clip no times. */
export function moments(clip) {
  const params = new URLSearchParams(location.search);
  const sentence = params.get("q") && params.get("by") !== "words";
  const query = sentence || params.get("file") || params.get("like");
  if (!query || clip.start === null || clip.score === null || clip.score === undefined) return null;
  const button = make("button", { type: "button", class: "along" }, "Score along the video");
  button.addEventListener("click", async () => {
    const asked = Object.fromEntries(KEPT.filter((name) => params.get(name)).map((name) => [name, params.get(name)]));
    if (!sentence) delete asked.q;
    button.disabled = true;
    try {
      const found = draw(await ask("/api/moments", { ...asked, row: clip.row }), clip);
      button.replaceWith(found);
      found.querySelector("a").focus();
    } catch (error) {
      button.disabled = false;
      notify(error.message, true);
    }
  });
  return button;
}
