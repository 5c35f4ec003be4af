import { clamp, fitted, levelFor, pixelOf, sliceOf, tilesFor, toPixel, toScreen, worldOf, zoomed } from "./geometry";
import type { Point, Viewport } from "./geometry";
import type { Tiles } from "./tiles";
import type { Layer, Line, Outlines, PlaneInfo, PromptInfo, SessionInfo, Side, Vec } from "./types";
import { DRAWN } from "./ui";
import type { Cursor, Ui } from "./ui";

/** What a view asks of the page around it. */
export interface Stage {
  readonly ui: Ui;
  state(): SessionInfo;
  cursor(): Cursor | null;
  readonly tiles: Tiles;
  outlines(side: Side, plane: string, slice: number): Outlines | null;
  grid(plane: string, slice: number): Line[] | null;
  hover(side: Side, world: Vec | null, view: PlaneView): void;
  focus(view: PlaneView): void;
  point(view: PlaneView, world: Vec, negative: boolean, more: boolean): void;
  box(view: PlaneView, from: Vec, to: Vec): void;
  stroke(view: PlaneView, points: Vec[], negative: boolean): void;
  scrolled(view: PlaneView): void;
  contrast(side: Side, brighter: number, contrast: number): void;
}

const FIXED_TINT = "#ff8000";
const MOVING_TINT = "#0080ff";
const CHECKS = 8;

/** One plane of one image on a canvas: pictures, outlines, markers, and what the pointer does there. */
export class PlaneView {
  readonly element: HTMLElement;
  readonly canvas: HTMLCanvasElement;
  view: Viewport = { zoom: 1, x: 0, y: 0 };
  slice: number;
  private readonly label: HTMLElement;
  private readonly pointers = new Map<number, Point>();
  private drag: { kind: "pan" | "box" | "stroke" | "curtain" | "contrast"; start: Point; points: Point[]; negative: boolean } | null =
    null;
  private pinch = 0;
  private wanted = false;
  private fit = true;
  private readonly scratch = [document.createElement("canvas"), document.createElement("canvas")] as const;
  /** The place the keyboard points at, pixels of the plane. */
  keyed: Point | null = null;

  constructor(
    readonly side: Side,
    readonly plane: PlaneInfo,
    private readonly stage: Stage,
  ) {
    this.slice = Math.floor(plane.count / 2);
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "image");
    this.element = document.createElement("div");
    this.element.className = "view";
    this.label = document.createElement("div");
    this.label.className = "view-label";
    this.element.append(this.canvas, this.label);
    for (const [edge, letter] of Object.entries(plane.letters)) {
      if (!letter) continue;
      const mark = document.createElement("span");
      mark.className = `letter letter-${edge}`;
      mark.textContent = letter;
      this.element.append(mark);
    }
    this.listen();
    new ResizeObserver(() => this.resized()).observe(this.element);
  }

  get size(): [number, number] {
    return [this.element.clientWidth, this.element.clientHeight];
  }

  private resized(): void {
    const [w, h] = this.size;
    if (!w || !h) return;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(w * ratio);
    this.canvas.height = Math.round(h * ratio);
    if (this.fit) this.view = fitted(this.plane, w, h);
    this.draw();
  }

  fitView(): void {
    this.fit = true;
    this.view = fitted(this.plane, ...this.size);
    this.draw();
  }

  zoomBy(factor: number, at?: Point): void {
    const [w, h] = this.size;
    this.fit = false;
    const limit = fitted(this.plane, w, h).zoom;
    const zoom = clamp(this.view.zoom * factor, limit / 4, Math.max(limit, 60 / Math.min(...this.plane.size)));
    this.view = zoomed(this.view, zoom / this.view.zoom, at ?? [w / 2, h / 2]);
    this.draw();
  }

  scroll(step: number): void {
    this.setSlice(this.slice + step);
    this.stage.scrolled(this);
  }

  setSlice(slice: number): void {
    const next = clamp(slice, 0, this.plane.count - 1);
    if (next === this.slice) return;
    this.slice = next;
    this.draw();
  }

  /** Bring a world point onto this plane and into sight. */
  show(world: Vec): void {
    this.setSlice(sliceOf(this.plane, world));
    const [w, h] = this.size;
    const [x, y] = toScreen(this.plane, this.view, this.pixel(world));
    if (x < 0 || y < 0 || x > w || y > h) {
      this.fit = false;
      this.view = { ...this.view, x: this.view.x + w / 2 - x, y: this.view.y + h / 2 - y };
    }
    this.draw();
  }

  pixel(world: Vec): [number, number] {
    const p = pixelOf(this.plane, world);
    return [p[0], p[1]];
  }

  world(screen: Point): Vec | null {
    const [c, r] = toPixel(this.plane, this.view, screen);
    if (c < -0.5 || r < -0.5 || c > this.plane.columns - 0.5 || r > this.plane.rows - 0.5) return null;
    return worldOf(this.plane, [c, r], this.slice);
  }

  // -- pointer ------------------------------------------------------------------------------------

  private listen(): void {
    const c = this.canvas;
    c.addEventListener("contextmenu", (e) => e.preventDefault());
    c.addEventListener("focus", () => this.stage.focus(this));
    c.addEventListener("pointerdown", (e) => this.down(e));
    c.addEventListener("pointermove", (e) => this.move(e));
    c.addEventListener("pointerup", (e) => this.up(e));
    c.addEventListener("pointercancel", (e) => this.up(e));
    c.addEventListener("pointerleave", () => this.stage.hover(this.side, null, this));
    c.addEventListener(
      "wheel",
      (e) => {
        e.preventDefault();
        if (this.plane.count > 1 && !e.ctrlKey && !e.metaKey) this.scroll(e.deltaY > 0 ? 1 : -1);
        else this.zoomBy(Math.exp(-e.deltaY * (e.ctrlKey ? 0.01 : 0.0015)), this.at(e));
      },
      { passive: false },
    );
  }

  private at(e: MouseEvent): Point {
    const box = this.canvas.getBoundingClientRect();
    return [e.clientX - box.left, e.clientY - box.top];
  }

  private down(e: PointerEvent): void {
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(e.pointerId);
    const at = this.at(e);
    this.pointers.set(e.pointerId, at);
    this.keyed = null;
    if (this.pointers.size === 2) {
      this.drag = null;
      this.pinch = this.spread();
      return;
    }
    const ui = this.stage.ui;
    const negative = e.shiftKey || e.button === 2 || e.altKey;
    if (this.curtained && Math.abs(at[0] - ui.curtain * this.size[0]) < 12) {
      this.drag = { kind: "curtain", start: at, points: [at], negative };
    } else if (e.button === 1 || ui.tool === "move") {
      this.drag = { kind: "pan", start: at, points: [at], negative };
    } else if (ui.tool === "contrast") {
      this.drag = { kind: "contrast", start: at, points: [at], negative };
    } else if (ui.tool === "box") {
      this.drag = { kind: "box", start: at, points: [at], negative };
    } else if (ui.tool === "scribble" || ui.tool === "brush") {
      this.drag = { kind: "stroke", start: at, points: [at], negative };
    } else {
      const world = this.world(at);
      if (world) this.stage.point(this, world, negative, e.ctrlKey || e.metaKey);
    }
    this.draw();
  }

  private move(e: PointerEvent): void {
    const at = this.at(e);
    if (this.pointers.has(e.pointerId)) {
      const before = this.pointers.get(e.pointerId)!;
      this.pointers.set(e.pointerId, at);
      if (this.pointers.size === 2) {
        const spread = this.spread();
        if (this.pinch > 0 && spread > 0) this.zoomBy(spread / this.pinch, this.middle());
        this.pinch = spread;
        this.pan((at[0] - before[0]) / 2, (at[1] - before[1]) / 2);
        return;
      }
    }
    if (this.drag?.kind === "pan") {
      const last = this.drag.points[this.drag.points.length - 1]!;
      this.drag.points.push(at);
      this.pan(at[0] - last[0], at[1] - last[1]);
    } else if (this.drag?.kind === "contrast") {
      const last = this.drag.points[this.drag.points.length - 1]!;
      this.drag.points.push(at);
      this.stage.contrast(this.side, (last[1] - at[1]) / this.size[1], Math.exp((2 * (at[0] - last[0])) / this.size[0]));
    } else if (this.drag?.kind === "curtain") {
      this.stage.ui.curtain = clamp(at[0] / this.size[0], 0.02, 0.98);
      this.draw();
    } else if (this.drag) {
      this.drag.points.push(at);
      this.draw();
    }
    this.stage.hover(this.side, this.world(at), this);
  }

  private up(e: PointerEvent): void {
    this.pointers.delete(e.pointerId);
    const drag = this.drag;
    this.drag = null;
    if (!drag || e.type === "pointercancel") {
      this.draw();
      return;
    }
    const inside = drag.points.map((p) => this.world(p)).filter((w): w is Vec => w !== null);
    if (drag.kind === "box") {
      const [from, to] = [this.clamped(drag.start), this.clamped(this.at(e))];
      const moved = Math.hypot(this.at(e)[0] - drag.start[0], this.at(e)[1] - drag.start[1]);
      if (moved > 4) this.stage.box(this, from, to);
    } else if (drag.kind === "stroke" && inside.length) {
      this.stage.stroke(this, inside, drag.negative);
    }
    this.draw();
  }

  private clamped(screen: Point): Vec {
    const [c, r] = toPixel(this.plane, this.view, screen);
    return worldOf(
      this.plane,
      [clamp(c, -0.5, this.plane.columns - 0.5), clamp(r, -0.5, this.plane.rows - 0.5)],
      this.slice,
    );
  }

  private pan(x: number, y: number): void {
    this.fit = false;
    this.view = { ...this.view, x: this.view.x + x, y: this.view.y + y };
    this.draw();
  }

  private spread(): number {
    const [a, b] = [...this.pointers.values()];
    return a && b ? Math.hypot(a[0] - b[0], a[1] - b[1]) : 0;
  }

  private middle(): Point {
    const [a, b] = [...this.pointers.values()];
    return a && b ? [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2] : [0, 0];
  }

  // -- drawing ------------------------------------------------------------------------------------

  private get curtained(): boolean {
    const compare = this.stage.ui.compare;
    return this.side === "fixed" && (compare === "curtain" || compare === "before-after");
  }

  draw(): void {
    if (this.wanted) return;
    this.wanted = true;
    requestAnimationFrame(() => {
      this.wanted = false;
      this.paint();
    });
  }

  private paint(): void {
    const context = this.canvas.getContext("2d");
    const [w, h] = this.size;
    if (!context || !w || !h) return;
    const ratio = this.canvas.width / w;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, w, h);
    this.pictures(context, w, h, ratio);
    this.vectors(context, w, h);
    const where = this.plane.count > 1 ? ` ${this.slice + 1}/${this.plane.count}` : "";
    this.label.textContent = this.plane.count > 1 ? `${this.plane.name}${where}` : "";
    const title = this.stage.state().sides[this.side].title;
    this.canvas.setAttribute("aria-label", `${this.side} image ${title}${this.label.textContent ? `, ${this.label.textContent}` : ""}`);
  }

  private pictures(context: CanvasRenderingContext2D, w: number, h: number, ratio: number): void {
    const ui = this.stage.ui;
    const moved: Layer = ui.after ? "warped" : "before";
    const compare = this.side === "fixed" ? ui.compare : "off";
    if (compare === "off") {
      this.layer(context, this.side, w, h, ratio);
    } else if (compare === "fusion") {
      this.fuse(context, moved, w, h, ratio, 0, w);
    } else if (compare === "before-after") {
      this.fuse(context, "before", w, h, ratio, 0, ui.curtain * w);
      this.fuse(context, "warped", w, h, ratio, ui.curtain * w, w);
    } else if (compare === "curtain") {
      this.layer(context, "fixed", w, h, ratio);
      this.clip(context, [[ui.curtain * w, 0, w, h]], () => this.layer(context, moved, w, h, ratio));
    } else {
      this.layer(context, "fixed", w, h, ratio);
      const cell = Math.max(w, h) / CHECKS;
      const cells: [number, number, number, number][] = [];
      for (let i = 0; i * cell < w; i++) {
        for (let j = 0; j * cell < h; j++) if ((i + j) % 2) cells.push([i * cell, j * cell, (i + 1) * cell, (j + 1) * cell]);
      }
      this.clip(context, cells, () => this.layer(context, moved, w, h, ratio));
    }
    if (this.side === "fixed" && this.stage.state().linked) {
      if (ui.jacobian) this.layer(context, "jacobian", w, h, ratio);
      if (ui.doubt) this.layer(context, "doubt", w, h, ratio);
    }
    if (this.curtained) this.handle(context, ui.curtain * w, h, compare === "curtain" ? ["fixed", ui.after ? "moving on it" : "moving as it lies"] : ["before", "after"]);
  }

  private clip(context: CanvasRenderingContext2D, boxes: [number, number, number, number][], body: () => void): void {
    context.save();
    context.beginPath();
    for (const [x0, y0, x1, y1] of boxes) context.rect(x0, y0, x1 - x0, y1 - y0);
    context.clip();
    context.fillStyle = "#000";
    context.fillRect(0, 0, ...this.size);
    body();
    context.restore();
  }

  private fuse(context: CanvasRenderingContext2D, moved: Layer, w: number, h: number, ratio: number, x0: number, x1: number): void {
    const layers: [Layer, string][] = [
      ["fixed", FIXED_TINT],
      [moved, MOVING_TINT],
    ];
    const parts = layers.map(([layer, tint], k) => {
      const canvas = this.scratch[k]!;
      if (canvas.width !== this.canvas.width) canvas.width = this.canvas.width;
      if (canvas.height !== this.canvas.height) canvas.height = this.canvas.height;
      const part = canvas.getContext("2d")!;
      part.setTransform(ratio, 0, 0, ratio, 0, 0);
      part.globalCompositeOperation = "source-over";
      part.fillStyle = "#000";
      part.fillRect(0, 0, w, h);
      this.layer(part, layer, w, h, ratio);
      part.globalCompositeOperation = "saturation";
      part.fillStyle = "#808080";
      part.fillRect(0, 0, w, h);
      part.globalCompositeOperation = "multiply";
      part.fillStyle = tint;
      part.fillRect(0, 0, w, h);
      return canvas;
    });
    context.save();
    context.beginPath();
    context.rect(x0, 0, x1 - x0, h);
    context.clip();
    context.fillStyle = "#000";
    context.fillRect(0, 0, w, h);
    context.globalCompositeOperation = "lighter";
    for (const part of parts) context.drawImage(part, 0, 0, w, h);
    context.restore();
  }

  private layer(context: CanvasRenderingContext2D, layer: Layer, w: number, h: number, ratio: number): void {
    const { ui, tiles } = this.stage;
    const state = this.stage.state();
    const plain = layer === "fixed" || layer === "moving";
    const version = plain ? 0 : layer === "before" ? 0 : state.fitting.version;
    const source: Side = layer === "fixed" ? "fixed" : "moving";
    const window = ui.window[source] && layer !== "jacobian" && layer !== "doubt" ? ui.window[source]! : undefined;
    const levels = state.sides[this.side].levels;
    const best = levelFor(this.plane, this.view, levels, ratio);
    // Coarse ones first: they are there while the fine ones are on their way.
    const order = best === levels - 1 ? [best] : [levels - 1, best];
    context.imageSmoothingEnabled = this.view.zoom * Math.min(...this.plane.size) < 4;
    for (const level of order) {
      for (const tile of tilesFor(this.plane, this.view, level, w, h)) {
        const picture = tiles.get(layer, version, this.plane.name, this.slice, tile, window);
        if (!picture) continue;
        const [x0, y0] = toScreen(this.plane, this.view, [tile.x0, tile.y0]);
        const [x1, y1] = toScreen(this.plane, this.view, [tile.x1, tile.y1]);
        context.drawImage(picture, x0, y0, x1 - x0, y1 - y0);
      }
    }
  }

  private handle(context: CanvasRenderingContext2D, x: number, h: number, names: [string, string]): void {
    context.fillStyle = "#fff";
    context.fillRect(x - 1, 0, 2, h);
    context.beginPath();
    context.arc(x, h / 2, 9, 0, 2 * Math.PI);
    context.fill();
    context.font = "12px system-ui, sans-serif";
    halo(context, names[0], x - 8, h - 10, "right");
    halo(context, names[1], x + 8, h - 10, "left");
  }

  private vectors(context: CanvasRenderingContext2D, w: number, h: number): void {
    const { ui } = this.stage;
    const state = this.stage.state();
    context.lineJoin = "round";
    if (ui.grid && this.side === "fixed" && state.linked) {
      const lines = this.stage.grid(this.plane.name, this.slice);
      if (lines) this.path(context, lines, () => stroke(context, "#ffc233", 1, [], 0.9));
    }
    const outlines = this.stage.outlines(this.side, this.plane.name, this.slice);
    if (outlines && ui.outlines !== "none") this.regions(context, outlines, state);
    if (outlines?.proposal) {
      this.path(context, outlines.proposal, () => {
        context.fillStyle = "rgba(255,255,255,0.16)";
        context.fill();
        stroke(context, "#000", 4.5, []);
        stroke(context, "#fff", 2.2, [6, 3]);
      });
    }
    this.prompt(context, state);
    this.landmarks(context, state);
    this.crosshair(context);
    if (this.drag && (this.drag.kind === "box" || this.drag.kind === "stroke")) this.rubber(context);
    if (ui.tool === "brush" && this.hovered) {
      context.beginPath();
      context.arc(this.hovered[0], this.hovered[1], ui.brush, 0, 2 * Math.PI);
      stroke(context, "#000", 3, []);
      stroke(context, "#fff", 1.2, []);
    }
    void w;
    void h;
  }

  private get hovered(): Point | null {
    const cursor = this.stage.cursor();
    if (!cursor || cursor.side !== this.side) return null;
    return toScreen(this.plane, this.view, this.pixel(cursor.point));
  }

  private path(context: CanvasRenderingContext2D, lines: Line[], then: () => void): void {
    context.beginPath();
    for (const line of lines) {
      line.forEach((p, k) => {
        const [x, y] = toScreen(this.plane, this.view, p);
        if (k) context.lineTo(x, y);
        else context.moveTo(x, y);
      });
    }
    then();
  }

  private regions(context: CanvasRenderingContext2D, outlines: Outlines, state: SessionInfo): void {
    const { ui } = this.stage;
    const byId = new Map(state.pairs.map((p) => [p.id, p]));
    const proposed = state.pairs.filter((p) => p.status === "proposed").sort((a, b) => b.confidence - a.confidence);
    const hidden = new Set(ui.outlines === "best" ? proposed.slice(DRAWN).map((p) => p.id) : []);
    for (const { id, lines } of outlines.pairs) {
      const pair = byId.get(id);
      if (!pair || (hidden.has(id) && ui.selected !== id) || (pair.status === "rejected" && !ui.rejected && ui.selected !== id)) continue;
      const selected = ui.selected === id;
      const dash = pair.status === "accepted" ? [] : pair.status === "rejected" ? [1.5, 4] : [5, 3];
      this.path(context, lines, () => {
        if (selected) {
          context.save();
          context.globalAlpha = 0.25;
          context.fillStyle = pair.colour;
          context.fill("evenodd");
          context.restore();
        }
        const width = selected ? 3 : pair.status === "accepted" ? 2.2 : 1.3;
        stroke(context, "rgba(0,0,0,0.65)", width + 1.6, []);
        stroke(context, pair.colour, width, dash);
      });
      if (pair.status === "accepted" || selected) {
        const top = lines.flat().reduce((a, b) => (b[1] < a[1] ? b : a));
        const [x, y] = toScreen(this.plane, this.view, top);
        context.font = "600 12px system-ui, sans-serif";
        halo(context, String(id), x, y - 4, "center", pair.colour);
      }
    }
  }

  private prompt(context: CanvasRenderingContext2D, state: SessionInfo): void {
    const p = state.proposal;
    if (!p) return;
    const prompt: PromptInfo | null = p.side === this.side ? p.prompt : p.found;
    if (!prompt) return;
    prompt.points.forEach((point, k) => {
      const [x, y] = toScreen(this.plane, this.view, this.pixel(point));
      const depth = Math.abs(pixelOf(this.plane, point)[2] - this.slice);
      if (this.plane.count > 1 && depth > 1.5) return;
      const inside = prompt.labels[k] === 1;
      context.beginPath();
      if (inside) {
        context.moveTo(x - 6, y);
        context.lineTo(x + 6, y);
        context.moveTo(x, y - 6);
        context.lineTo(x, y + 6);
      } else {
        context.moveTo(x - 5, y - 5);
        context.lineTo(x + 5, y + 5);
        context.moveTo(x + 5, y - 5);
        context.lineTo(x - 5, y + 5);
      }
      stroke(context, "#000", 5, []);
      stroke(context, inside ? "#009e73" : "#d55e00", 2.5, []);
    });
    if (prompt.box) {
      const [a, b] = prompt.box.map((corner) => toScreen(this.plane, this.view, this.pixel(corner)));
      context.beginPath();
      context.rect(a![0], a![1], b![0] - a![0], b![1] - a![1]);
      stroke(context, "#000", 3.5, []);
      stroke(context, "#fff", 1.5, [4, 4]);
    }
  }

  private landmarks(context: CanvasRenderingContext2D, state: SessionInfo): void {
    for (const mark of state.landmarks) {
      const point = mark[this.side];
      if (!point) continue;
      const p = pixelOf(this.plane, point);
      if (this.plane.count > 1 && Math.abs(p[2] - this.slice) > 1.5) continue;
      const [x, y] = toScreen(this.plane, this.view, [p[0], p[1]]);
      const chosen = this.stage.ui.landmark === mark.id;
      context.beginPath();
      context.moveTo(x, y - 7);
      context.lineTo(x + 7, y);
      context.lineTo(x, y + 7);
      context.lineTo(x - 7, y);
      context.closePath();
      stroke(context, "#000", 4.5, []);
      stroke(context, chosen ? "#f0e442" : "#fff", 2, []);
      context.fillStyle = "#fff";
      context.fillRect(x - 1, y - 1, 2, 2);
      context.font = "12px system-ui, sans-serif";
      halo(context, mark.name, x + 10, y + 4, "left");
    }
  }

  private crosshair(context: CanvasRenderingContext2D): void {
    const cursor = this.stage.cursor();
    if (!cursor) return;
    const own = cursor.side === this.side;
    const point = own ? cursor.point : cursor.other;
    if (!point) return;
    const [x, y] = toScreen(this.plane, this.view, this.pixel(point));
    context.beginPath();
    context.moveTo(x - 14, y);
    context.lineTo(x - 4, y);
    context.moveTo(x + 4, y);
    context.lineTo(x + 14, y);
    context.moveTo(x, y - 14);
    context.lineTo(x, y - 4);
    context.moveTo(x, y + 4);
    context.lineTo(x, y + 14);
    stroke(context, "#000", 3.5, []);
    stroke(context, own ? "#fff" : "#f0e442", 1.6, []);
    if (own || !cursor.inside) return;
    context.beginPath();
    context.arc(x, y, Math.max(3, cursor.radius * this.view.zoom), 0, 2 * Math.PI);
    stroke(context, "#000", 3, []);
    stroke(context, "#f0e442", 1.4, cursor.linked ? [] : [3, 4]);
  }

  private rubber(context: CanvasRenderingContext2D): void {
    const drag = this.drag!;
    const last = drag.points[drag.points.length - 1]!;
    context.beginPath();
    if (drag.kind === "box") context.rect(drag.start[0], drag.start[1], last[0] - drag.start[0], last[1] - drag.start[1]);
    else drag.points.forEach((p, k) => (k ? context.lineTo(...p) : context.moveTo(...p)));
    const brush = this.stage.ui.tool === "brush";
    if (brush) {
      context.lineCap = "round";
      stroke(context, drag.negative ? "rgba(213,94,0,0.5)" : "rgba(0,158,115,0.5)", 2 * this.stage.ui.brush, []);
      context.lineCap = "butt";
    } else {
      stroke(context, "#000", 4, []);
      stroke(context, drag.negative ? "#d55e00" : "#fff", 2, drag.kind === "box" ? [4, 4] : []);
    }
  }
}

function stroke(context: CanvasRenderingContext2D, colour: string, width: number, dash: number[], alpha = 1): void {
  context.save();
  context.globalAlpha *= alpha;
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.setLineDash(dash);
  context.stroke();
  context.restore();
}

function halo(context: CanvasRenderingContext2D, text: string, x: number, y: number, align: CanvasTextAlign, colour = "#fff"): void {
  context.textAlign = align;
  context.lineWidth = 3;
  context.strokeStyle = "rgba(0,0,0,0.85)";
  context.strokeText(text, x, y);
  context.fillStyle = colour;
  context.fillText(text, x, y);
}
