// The search box: suggestions from captions, and files that are dropped.

import { ask, guarded, make, notify } from "./common.js";

const WAIT = 120; // ms of silence before captions are asked for

/** Suggest captions below a field, by keyboard and pointer. */
export function suggest(field, list) {
  let timer = 0;
  let request = null;
  let chosen = -1;

  const close = () => {
    clearTimeout(timer);
    request?.abort();
    list.hidden = true;
    chosen = -1;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  };
  const take = (text) => {
    field.value = text;
    close();
    field.form.requestSubmit();
  };
  const choose = (place) => {
    chosen = place;
    [...list.children].forEach((item, number) => item.setAttribute("aria-selected", String(number === place)));
    if (place < 0) field.removeAttribute("aria-activedescendant");
    else field.setAttribute("aria-activedescendant", list.children[place].id);
  };
  const show = (captions) => {
    list.replaceChildren(...captions.map((text, number) => {
      const item = make("li", { role: "option", id: `suggestion-${number}`, "aria-selected": "false" }, text);
      item.addEventListener("pointerdown", (event) => { event.preventDefault(); take(text); });
      return item;
    }));
    chosen = -1;
    list.hidden = captions.length === 0;
    field.setAttribute("aria-expanded", String(!list.hidden));
  };

  field.addEventListener("input", () => {
    clearTimeout(timer);
    request?.abort();
    const text = field.value;
    if (text.trim().length < 2) { close(); return; }
    timer = setTimeout(async () => {
      request = new AbortController();
      const { signal } = request;
      const captions = await ask("/api/suggest", { q: text.slice(0, 200) }, { signal }).catch(() => null);
      if (captions && !signal.aborted && document.activeElement === field) show(captions);
    }, WAIT);
  });
  field.addEventListener("keydown", (event) => {
    const count = list.hidden ? 0 : list.children.length;
    if (event.key === "Escape" && count) { close(); event.preventDefault(); }
    if (event.key === "Enter" && count && chosen >= 0) { event.preventDefault(); take(list.children[chosen].textContent); }
    if ((event.key === "ArrowDown" || event.key === "ArrowUp") && count) {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      choose((chosen + 1 + step + count + 1) % (count + 1) - 1);
    }
  });
  field.addEventListener("blur", close);
  field.form.addEventListener("submit", close);
}

/** Send a dropped or chosen file, and call `done` with its name here and what it holds. */
export function takeFiles(zone, field, progress, most, done) {
  const send = (file) => guarded(async () => {
    if (!file) return;
    if (file.size > most) throw new Error(`The file has more than ${Math.floor(most / 1e6)} MB. Try a shorter one.`);
    progress.hidden = false;
    notify(`Reading ${file.name} …`);
    try {
      const found = await ask("/api/upload", {}, { method: "POST", body: file });
      notify("");
      done(found);
    } finally {
      progress.hidden = true;
      field.value = "";
    }
  });
  field.addEventListener("change", () => send(field.files[0]));
  // the whole page takes a file, so that one that misses the zone does not replace the page
  document.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) zone.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    send(event.dataTransfer.files[0]);
  });
}
