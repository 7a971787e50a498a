// What all pages share. Text from the index is only ever set as text, so a caption cannot script a page.

/** Make an element; strings among the children become text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

async function answer(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `lightning app` still running?");
  }
  if (response.ok) return response;
  const type = response.headers.get("content-type") || "";
  throw new Error(type.includes("json") ? (await response.json()).error : await response.text());
}

/** Ask the server for JSON. */
export async function ask(path, params = {}, options = {}) {
  const query = new URLSearchParams(params).toString();
  return (await answer(query ? `${path}?${query}` : path, options)).json();
}

/** Ask the server for numbers; a notice that comes with them has the name `notice`. */
export async function numbers(path, Kind) {
  const response = await answer(path);
  return Object.assign(new Kind(await response.arrayBuffer()), { notice: response.headers.get("x-notice") });
}

/** Show a notice, or hide it if there is no text. */
export function notify(text, bad = false) {
  const notice = document.getElementById("notice");
  notice.textContent = text || "";
  notice.classList.toggle("bad", bad);
}

/** Run a function, and show what goes wrong in the page. */
export async function guarded(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") notify(error.message, true);
    return undefined;
  }
}

/** Return a time as minutes and seconds. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const [hours, minutes, rest] = parts.map((part) => String(part).padStart(2, "0"));
  return parts[0] ? `${parts[0]}:${minutes}:${rest}` : `${parts[1]}:${rest}`;
}

export const NAMES = { v: "picture", a: "sound", t: "words" };

/** Return the names of some modalities. */
export function named(letters) {
  return [...letters].map((letter) => NAMES[letter]).join(" and ");
}

/** Return the choices of modalities: each alone, and all beside the words together. */
export function choices(letters) {
  const together = letters.replace("t", "");
  return [...new Set([together, ...letters].filter(Boolean))];
}

/** Ask what the index holds, and name it in the header. */
export async function about() {
  const found = await ask("/api/about");
  document.getElementById("brand").textContent = found.name;
  document.title = `${document.title} · ${found.name}`;
  return found;
}

/** Let "/" focus a field. */
export function slashFocuses(field) {
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    field.focus();
    field.select();
  });
}
