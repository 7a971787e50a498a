// Points drawn by WebGL: a million of them in one call, moved and zoomed in the shader.
// While the map moves, as many are drawn as the graphics take smoothly; all of them follow when it rests.

const VERTEX = `
attribute vec2 place;
attribute float code;
uniform vec2 middle;
uniform vec2 zoom;
uniform float size;
uniform float only;
uniform float light;
varying vec4 colour;
void main() {
  gl_Position = vec4((place - middle) * zoom, 0.0, 1.0);
  bool faded = only >= 0.0 && abs(code - only) > 0.5;
  gl_PointSize = faded ? size * 0.7 : size;
  float hue = fract(code * 0.61803398875);
  vec3 full = clamp(abs(mod(hue * 6.0 + vec3(0.0, 4.0, 2.0), 6.0) - 3.0) - 1.0, 0.0, 1.0);
  float level = light * (0.85 + 0.3 * fract(code * 0.37));
  vec3 tone = level + 0.62 * (full - 0.5) * (1.0 - abs(2.0 * level - 1.0));
  colour = code < 0.0 || faded ? vec4(vec3(0.55), 0.25) : vec4(tone, 0.85);
}`;
const FRAGMENT = `
precision mediump float;
varying vec4 colour;
void main() {
  float away = length(gl_PointCoord - 0.5);
  if (away > 0.5) discard;
  gl_FragColor = vec4(colour.rgb * colour.a, colour.a);
}`;
const CELLS = 512; // of the grid that finds the point below the pointer, on each side
const FAR = 1e6; // where clips without a place are, outside of every view
const MOST_ZOOM = 20000;
const SMOOTH = 25; // ms that a picture may take while the map moves
const FEW = 20_000; // points that are drawn all the same
const REST = 200; // ms without a movement after which the map rests

/** The colour of a group, as the shader has it. */
export function colourOf(code, dark) {
  if (code < 0) return "rgb(140 140 140)";
  const fract = (value) => value - Math.floor(value);
  const hue = fract(code * 0.61803398875);
  const level = (dark ? 0.62 : 0.48) * (0.85 + 0.3 * fract(code * 0.37));
  const parts = [0, 4, 2].map((shift) => {
    const full = Math.min(1, Math.max(0, Math.abs(((hue * 6 + shift) % 6) - 3) - 1));
    return Math.round(255 * (level + 0.62 * (full - 0.5) * (1 - Math.abs(2 * level - 1))));
  });
  return `rgb(${parts.join(" ")})`;
}

function program(gl) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  gl.useProgram(made);
  return made;
}

/** Return a step whose multiples, modulo a count, reach every number below it, and are spread evenly from the start on. */
function evenStep(count) {
  const divisor = (a, b) => (b ? divisor(b, a % b) : a);
  let step = Math.max(1, Math.round(count * 0.6180339887));
  while (divisor(step, count) > 1) step++;
  return step;
}

export class Scatter {
  /** Throws where there is no WebGL. */
  constructor(canvas) {
    this.canvas = canvas;
    this.gl = canvas.getContext("webgl", { antialias: false, premultipliedAlpha: true, preserveDrawingBuffer: false });
    if (!this.gl) throw new Error("The map needs WebGL, which this browser lacks or has turned off. Search and clusters work without.");
    this.count = 0;
    this.smooth = 0; // points that are drawn while the map moves
    this.only = -1;
    this.drawn = null; // called after each picture
    this.home();
    this.build();
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => { this.build(); this.upload(); this.draw(); });
    new ResizeObserver(() => this.draw()).observe(canvas);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", () => this.draw());
  }

  build() {
    const { gl } = this;
    this.program = program(gl);
    this.uniforms = Object.fromEntries(["middle", "zoom", "size", "only", "light"].map((name) =>
      [name, gl.getUniformLocation(this.program, name)]));
    this.buffers = { place: gl.createBuffer(), code: gl.createBuffer() };
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  /** Set the places, x and y of each point; clips without a place have NaN. */
  setPlaces(places) {
    const extent = [1e-3, 1e-3]; // the largest x and y
    for (let i = 0; i < places.length; i++) {
      if (Number.isFinite(places[i])) extent[i % 2] = Math.max(extent[i % 2], Math.abs(places[i]));
      else places[i] = FAR;
    }
    this.extent = extent;
    this.places = places;
    this.home();
    this.count = places.length / 2;
    this.grid = null;
    this.upload();
  }

  setCodes(codes) {
    this.codes = codes;
    this.upload();
  }

  upload() {
    if (!this.count || this.codes?.length !== this.count) return;
    const step = evenStep(this.count);
    const [place, code] = [new Float32Array(2 * this.count), new Float32Array(this.count)];
    for (let i = 0, from = 0; i < this.count; i++, from = (from + step) % this.count) {
      place[2 * i] = this.places[2 * from];
      place[2 * i + 1] = this.places[2 * from + 1];
      code[i] = this.codes[from];
    }
    for (const [name, values, size] of [["place", place, 2], ["code", code, 1]]) {
      const { gl } = this;
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
      const at = gl.getAttribLocation(this.program, name);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, size, gl.FLOAT, false, 0, 0);
    }
    this.ready = true;
    this.smooth = 0;
  }

  /** Show the whole map, as large as it fits. */
  home() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const least = Math.min(width, height) || 1;
    const [x, y] = this.extent || [1, 1];
    this.view = { x: 0, y: 0, zoom: 0.95 * Math.min((width || 1) / least / x, (height || 1) / least / y) };
  }

  /** Half the width and height of the canvas in units of the map. */
  get half() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const least = Math.min(width, height) || 1;
    return [width / least / this.view.zoom, height / least / this.view.zoom];
  }

  /** Turn a place on the canvas into one on the map. */
  toMap(x, y) {
    const [wide, high] = this.half;
    return [this.view.x + (2 * x / this.canvas.clientWidth - 1) * wide, this.view.y + (1 - 2 * y / this.canvas.clientHeight) * high];
  }

  /** Zoom, and keep the place below (x, y) where it is. */
  zoomAt(x, y, factor) {
    const [mapX, mapY] = this.toMap(x, y);
    this.view.zoom = Math.min(MOST_ZOOM, Math.max(0.3, this.view.zoom * factor));
    const [newX, newY] = this.toMap(x, y);
    this.move(mapX - newX, mapY - newY);
  }

  move(x, y) {
    this.view.x = Math.min(1.5, Math.max(-1.5, this.view.x + x));
    this.view.y = Math.min(1.5, Math.max(-1.5, this.view.y + y));
    this.moving = true;
    clearTimeout(this.rest);
    this.rest = setTimeout(() => {
      this.moving = false;
      if (this.smooth < this.count) this.draw();
    }, REST);
    this.draw();
  }

  draw() {
    if (this.waiting || !this.ready) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.paint(); });
  }

  get radius() {
    const room = Math.min(1, this.canvas.clientWidth / 600, this.canvas.clientHeight / 600); // less on a phone
    const crowd = Math.sqrt(this.view.zoom) * 160 * room / Math.sqrt(this.count || 1);
    return Math.min(7, Math.max(1, crowd));
  }

  paint() {
    const { gl, canvas } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(1, Math.round(side * ratio)));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    const [wide, high] = this.half;
    gl.uniform2f(this.uniforms.middle, this.view.x, this.view.y);
    gl.uniform2f(this.uniforms.zoom, 1 / wide, 1 / high);
    gl.uniform1f(this.uniforms.size, 2 * this.radius * ratio);
    gl.uniform1f(this.uniforms.only, this.only);
    gl.uniform1f(this.uniforms.light, this.dark.matches ? 0.62 : 0.48);
    if (this.smooth) gl.drawArrays(gl.POINTS, 0, this.moving ? this.smooth : this.count);
    else this.measure();
    this.drawn?.();
  }

  /** Draw all points, and find out how many of them the graphics take smoothly. */
  measure() {
    const { gl } = this;
    const finish = () => gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
    finish();
    const begin = performance.now();
    gl.drawArrays(gl.POINTS, 0, this.count);
    finish();
    const share = SMOOTH / Math.max(1, performance.now() - begin);
    this.smooth = Math.min(this.count, Math.max(FEW, Math.round(this.count * share)));
    setTimeout(() => this.cells()); // before the pointer asks for them
  }

  /** Sort the points into cells once, so that the one below the pointer is found at once. */
  cells() {
    if (this.grid) return this.grid;
    const [cell, starts] = [new Int32Array(this.count), new Uint32Array(CELLS * CELLS + 1)];
    for (let i = 0; i < this.count; i++) {
      cell[i] = this.places[2 * i] >= FAR ? -1 : cellOf(this.places[2 * i + 1]) * CELLS + cellOf(this.places[2 * i]);
      if (cell[i] >= 0) starts[cell[i] + 1]++;
    }
    for (let i = 0; i < CELLS * CELLS; i++) starts[i + 1] += starts[i];
    const [next, order] = [starts.slice(), new Uint32Array(this.count)];
    for (let i = 0; i < this.count; i++) if (cell[i] >= 0) order[next[cell[i]]++] = i;
    this.grid = { starts, order };
    return this.grid;
  }

  /** Call `take` with each point in a box of the map. */
  inBox(left, bottom, right, top, take) {
    const { starts, order } = this.cells();
    for (let row = cellOf(bottom); row <= cellOf(top); row++) {
      const [first, last] = [starts[row * CELLS + cellOf(left)], starts[row * CELLS + cellOf(right) + 1]];
      for (let at = first; at < last; at++) {
        const [x, y] = [this.places[2 * order[at]], this.places[2 * order[at] + 1]];
        if (x >= left && x <= right && y >= bottom && y <= top) take(order[at], x, y);
      }
    }
  }

  shown(point) {
    return this.only < 0 || this.codes[point] === this.only;
  }

  /** The point nearest to a place on the canvas within some pixels, or -1. */
  pick(x, y, within = 10) {
    const [mapX, mapY] = this.toMap(x, y);
    let reach = within * 2 * this.half[0] / this.canvas.clientWidth;
    let best = -1;
    this.inBox(mapX - reach, mapY - reach, mapX + reach, mapY + reach, (point, px, py) => {
      const away = Math.hypot(px - mapX, py - mapY);
      if (away <= reach && this.shown(point)) [best, reach] = [point, away];
    });
    return best;
  }

  /** The points inside of a polygon on the map, given as x and y in turn. */
  inside(polygon) {
    const [xs, ys] = [polygon.filter((_, i) => i % 2 === 0), polygon.filter((_, i) => i % 2)];
    const found = [];
    const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    this.inBox(...box, (point, x, y) => {
      let odd = false;
      for (let i = 0, j = xs.length - 1; i < xs.length; j = i++) {
        if (ys[i] > y !== ys[j] > y && x < (xs[j] - xs[i]) * (y - ys[i]) / (ys[j] - ys[i]) + xs[i]) odd = !odd;
      }
      if (odd && this.shown(point)) found.push(point);
    });
    return found;
  }
}

function cellOf(place) {
  return Math.min(CELLS - 1, Math.max(0, Math.floor((place + 1) / 2 * CELLS)));
}
