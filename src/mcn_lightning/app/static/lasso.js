// How a map is moved: by pointer, fingers, wheel and keys; and the line that is drawn around points.

const TAP = 5; // pixels within which a press is a click

/** Draw a line on a canvas through points on it. */
function line(canvas, path) {
  const ratio = devicePixelRatio || 1;
  [canvas.width, canvas.height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio];
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const colour = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  [pen.strokeStyle, pen.fillStyle, pen.lineWidth] = [colour, `${colour}22`, 2];
  pen.beginPath();
  for (let i = 0; i < path.length; i += 2) pen.lineTo(path[i], path[i + 1]);
  pen.closePath();
  pen.fill();
  pen.stroke();
}

/**
 * Move a map.
 *
 * `lassoing` tells whether a drag draws a line; `circled` takes the points inside of it, `hovered` and `clicked` the point
 * at a place, `listed` is called for Enter.
 */
export function control(scatter, drawing, { lassoing, circled, hovered, clicked, listed }) {
  const { canvas } = scatter;
  const pointers = new Map();
  let path = null;
  let moved = 0;

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const scale = () => 2 * scatter.half[0] / canvas.clientWidth;

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    moved = 0;
    path = (lassoing() || event.shiftKey) && pointers.size === 1 ? [...at(event)] : null;
    hovered(-1);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    const before = pointers.get(event.pointerId);
    if (!before) { hovered(scatter.pick(x, y), x, y); return; }
    moved += Math.hypot(x - before[0], y - before[1]);
    if (path) {
      path.push(x, y);
      line(drawing, path);
    } else if (pointers.size === 2) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const [was, is] = [before, [x, y]].map((place) => Math.hypot(place[0] - other[0], place[1] - other[1]));
      if (was > 0) scatter.zoomAt((x + other[0]) / 2, (y + other[1]) / 2, is / was);
    } else {
      scatter.move(-(x - before[0]) * scale(), (y - before[1]) * scale());
    }
    pointers.set(event.pointerId, [x, y]);
  });
  const up = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (path && moved > TAP) {
      const corners = [];
      for (let i = 0; i < path.length; i += 2) corners.push(...scatter.toMap(path[i], path[i + 1]));
      circled(scatter.inside(corners));
    } else if (moved <= TAP && event.type === "pointerup") {
      clicked(scatter.pick(...at(event), 14));
    }
    if (path) line(drawing, []);
    path = null;
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", () => hovered(-1));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    scatter.zoomAt(...at(event), Math.exp(-Math.max(-200, Math.min(200, event.deltaY)) / 250));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const [wide, high] = scatter.half;
    const step = { ArrowLeft: [-wide, 0], ArrowRight: [wide, 0], ArrowUp: [0, high], ArrowDown: [0, -high] }[event.key];
    if (step) scatter.move(step[0] / 5, step[1] / 5);
    else if (event.key === "+" || event.key === "=") middle(scatter, 1.4);
    else if (event.key === "-") middle(scatter, 1 / 1.4);
    else if (event.key === "Enter") listed();
    else return;
    event.preventDefault();
  });
}

/** Zoom around the middle. */
export function middle(scatter, factor) {
  scatter.zoomAt(scatter.canvas.clientWidth / 2, scatter.canvas.clientHeight / 2, factor);
}
