// A clip as a card or as a row of a list.

import { clock, make, named } from "./common.js";
import { moments } from "./moments.js";

const PAUSE = 0.05; // seconds before the end at which a clip counts as played
const NEAR = 0.3; // seconds around the end from which a clip is played again

export function span(clip) {
  if (clip.start === null) return "";
  return clip.end === null ? `from ${clock(clip.start)}` : `${clock(clip.start)}–${clock(clip.end)}`;
}

export function address(clip) {
  return `/?${new URLSearchParams({ clip: clip.id })}`;
}

/** A picture of a clip; `otherwise` is called if there is none. */
export function still(clip, otherwise) {
  const image = make("img", { alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => otherwise(image));
  image.src = `/still/${clip.row}`;
  return image;
}

function placeholder(text) {
  return make("p", { class: "none" }, text);
}

/** A video that begins at the clip's start and stops at its end. Played on, it begins again. */
function player(clip) {
  const start = clip.start ?? 0;
  const end = clip.end ?? Infinity;
  const fragment = Number.isFinite(end) ? `${start},${end}` : `${start}`;
  const video = make("video", { controls: true, playsinline: true, preload: "auto", "aria-label": clip.text || clip.id });
  let before = start;
  let over = false; // the clip was played to its end; a busy browser tells it late
  video.addEventListener("timeupdate", () => {
    if (before < end && video.currentTime >= end - PAUSE) {
      video.pause();
      over = true;
    }
    before = video.currentTime;
  });
  video.addEventListener("ended", () => { over = true; });
  video.addEventListener("seeking", () => {
    before = video.currentTime;
    if (video.paused) over = false; // play() itself seeks where the file has ended
  });
  video.addEventListener("play", () => { // some browsers stop at the end of #t by themselves
    if (over || Math.abs(video.currentTime - end) < NEAR) video.currentTime = start;
    over = false;
  });
  video.addEventListener("loadedmetadata", () => {
    if (Math.abs(video.currentTime - start) > 0.5) video.currentTime = start; // browsers without #t
  });
  video.addEventListener("error", () => {
    video.replaceWith(placeholder("This browser cannot play the video."));
  });
  video.src = `/media/${clip.row}#t=${fragment}`;
  return video;
}

function screen(clip) {
  const box = make("div", { class: "screen" });
  if (!clip.media) {
    const told = placeholder("The video is not at hand.");
    if (clip.still) told.classList.add("below");
    box.append(...[clip.still && still(clip, (image) => { image.remove(); told.classList.remove("below"); }), told].filter(Boolean));
    return box;
  }
  const play = make("button", { class: "play", type: "button", "aria-label": `Play ${clip.video} ${span(clip)}` });
  play.append(still(clip, (image) => image.replaceWith(placeholder("No picture"))));
  play.addEventListener("click", () => {
    const video = player(clip);
    play.replaceWith(video);
    video.focus();
    video.play().catch(() => {}); // the controls are there if the browser wants a second click
  });
  box.append(play);
  return box;
}

function score(name, value, most, kind = "") {
  const bar = make("span");
  bar.style.width = `${Math.max(0, Math.min(1, value / (most || 1))) * 100}%`;
  return [
    make("dt", {}, make("span", { class: kind }, name)),
    make("dd", {}, make("span", { class: "bar", "aria-hidden": "true" }, bar),
      make("span", { class: `number ${kind}` }, Number(value).toPrecision(3))),
  ];
}

function scores(clip, most) {
  if (clip.score === null || clip.score === undefined) return null;
  const list = make("dl", { class: "scores" }, ...score("score", clip.score, most.whole, "whole"));
  for (const [letter, value] of Object.entries(clip.scores)) {
    if (value !== null) list.append(...score(named(letter), value, most.part));
  }
  return list;
}

function where(clip) {
  const line = make("p", { class: "where" }, make("a", { href: address(clip) }, clip.video));
  if (span(clip)) line.append(` · ${span(clip)}`);
  if (clip.cluster !== null) line.append(" · ", make("a", { href: `/clusters#${clip.cluster}` }, `cluster ${clip.cluster}`));
  if (clip.merged > 1) line.append(` · ${clip.merged} clips`);
  for (const [name, value] of Object.entries(clip.own)) line.append(` · ${name}: ${value}`);
  return line;
}

function like(clip) {
  const links = [...clip.has].map((letter) =>
    make("a", { href: `/?${new URLSearchParams({ like: clip.id, modality: letter })}` }, named(letter)));
  return links.length ? make("p", { class: "like", "aria-label": "More clips like this one" }, "More by", ...links) : null;
}

/** A clip as a card. `most` holds the highest scores, which bars are drawn against. */
export function card(clip, most = { whole: 1, part: 1 }) {
  return make("article", { class: "card", "aria-label": `${clip.video} ${span(clip)}` },
    screen(clip),
    make("div", { class: "body" }, make("p", { class: "caption", title: clip.text }, clip.text || ""), where(clip),
      scores(clip, most), moments(clip), like(clip)));
}

/** A clip as a row of a list, with a remark. */
export function row(clip, remark = "") {
  const text = make("div", { class: "text" }, make("a", { href: address(clip) }, clip.text || clip.id),
    make("div", { class: "soft" }, [clip.video, span(clip), remark].filter(Boolean).join(" · ")));
  return make("li", {}, clip.still ? still(clip, (image) => image.remove()) : null, text);
}

/** The highest scores of some clips. */
export function highest(clips) {
  const parts = clips.flatMap((clip) => Object.values(clip.scores).filter((value) => value !== null));
  return { whole: Math.max(0, ...clips.map((clip) => clip.score ?? 0)), part: Math.max(0, ...parts) };
}
