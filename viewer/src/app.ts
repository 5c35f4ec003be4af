import { Api, Refusal, Silence } from "./api";
import { h } from "./dom";
import { rewindowed, sliceOf, thinned, worldOf, toPixel } from "./geometry";
import { actionOf, BINDINGS, nameOf } from "./keys";
import { Panel } from "./panel";
import { Tiles } from "./tiles";
import { COMPARES, freshUi, nextOf, OUTLINES, TOOLS } from "./ui";
import type { Cursor, Tool } from "./ui";
import { otherSide } from "./types";
import type { Line, Outlines, SessionInfo, Side, Status, Vec } from "./types";
import { PlaneView } from "./view";
import type { Stage } from "./view";
import { sentence } from "./words";

const TOOL_NAMES: Record<Tool, string> = {
  point: "Point",
  box: "Box",
  scribble: "Scribble",
  brush: "Brush",
  landmark: "Landmark",
  move: "Move",
  contrast: "Contrast",
};
const COMPARE_NAMES = {
  off: "Fixed image",
  curtain: "Slider: fixed | moving",
  "before-after": "Slider: before | after",
  fusion: "Fusion, orange and blue",
  checker: "Checkerboard",
} as const;

/** The page of one session. */
export class App implements Stage {
  readonly ui = freshUi();
  readonly tiles: Tiles;
  sort: "confidence" | "number" = "confidence";
  readonly views: Record<Side, PlaneView[]> = { fixed: [], moving: [] };
  /** How long answers took, in ms, the last 500. */
  readonly times: Record<string, number[]> = { click: [], map: [], first: [] };
  private current: SessionInfo;
  private readonly root: HTMLElement;
  private readonly panel: Panel;
  private readonly message = h("div", { class: "message", role: "status", "aria-live": "polite" });
  private readonly banner = h("div", { class: "banner", role: "alert", hidden: true });
  private readonly toolbar = h("div", { class: "toolbar", role: "toolbar", "aria-label": "Tools" });
  private readonly panes: Record<Side, HTMLElement>;
  private readonly main: Record<Side, number> = { fixed: 0, moving: 0 };
  private readonly sliders: Record<Side, HTMLInputElement[]> = { fixed: [], moving: [] };
  private pointer: Cursor | null = null;
  private focused: PlaneView | null = null;
  private asking = false;
  private wish: { side: Side; world: Vec; view: PlaneView } | null = null;
  private pointed: { side: Side; world: Vec; view: PlaneView } | null = null;
  private following = 0;
  private readonly lines = new Map<string, { marks: number; value: Outlines | null; asked: Promise<void> | null }>();
  private readonly grids = new Map<string, { version: number; value: Line[] | null }>();
  private prompt: { side: Side; points: Vec[]; labels: number[]; box: Vec[] | null } | null = null;
  private placeShown = -1;
  private ended = false;

  constructor(
    readonly api: Api,
    first: SessionInfo,
    mount: HTMLElement,
  ) {
    this.current = first;
    this.tiles = new Tiles(api, () => {
      if (!this.times.first!.length && this.tiles.complete) this.times.first!.push(performance.now());
      this.redraw();
    });
    this.panel = new Panel(this);
    this.panes = { fixed: h("section", { class: "pane", "aria-label": "Fixed image" }), moving: h("section", { class: "pane", "aria-label": "Moving image" }) };
    for (const side of ["fixed", "moving"] as const) this.build(side);
    this.root = h(
      "div",
      { class: `app dim${first.dimension}` },
      h("header", {}, h("h1", {}, "roireg"), this.toolbar, h("button", { class: "theme", title: "Dark or light", "aria-label": "Dark or light", click: () => this.theme() }, "◐"), h("button", { title: "Keys (?)", "aria-label": "Keys", click: () => this.help() }, "?")),
      this.banner,
      h("main", {}, this.panes.fixed, this.panes.moving, this.panel.element),
      h("footer", {}, this.message),
    );
    mount.replaceChildren(this.root);
    document.title = `${first.sides.moving.title} onto ${first.sides.fixed.title} – roireg`;
    document.addEventListener("keydown", (e) => this.key(e));
    this.render();
    if (first.note) this.say(first.note);
    void this.listen();
  }

  // -- building -----------------------------------------------------------------------------------

  private build(side: Side): void {
    const info = this.current.sides[side];
    const views = info.planes.map((plane) => new PlaneView(side, plane, this));
    this.views[side] = views;
    const title = h("div", { class: "pane-title" }, h("b", {}, side === "fixed" ? "Fixed" : "Moving"), h("span", { class: "grow", title: info.title }, info.title), this.windowing(side));
    const views_ = h("div", { class: "views" }, ...views.map((v) => v.element));
    this.panes[side].replaceChildren(title, views_);
    this.arrange(side);
  }

  private windowing(side: Side): HTMLElement {
    const info = this.current.sides[side];
    const [low, high] = info.window;
    const span = Math.max(info.range[1] - info.range[0], 1e-6);
    const input = (k: 0 | 1, label: string) => {
      const slider = h("input", {
        type: "range",
        min: info.range[0],
        max: info.range[1],
        step: span / 400,
        value: k ? high : low,
        "aria-label": `${label} of the ${side} image`,
        title: label,
        input: () => {
          const value = Number(slider.value);
          const now = this.window(side);
          this.setWindow(side, k ? [Math.min(now[0], value - span / 400), value] : [value, Math.max(now[1], value + span / 400)]);
        },
      });
      this.sliders[side][k] = slider;
      return slider;
    };
    return h(
      "details",
      { class: "windowing" },
      h("summary", { title: "Contrast" }, "◑"),
      h("div", {}, h("label", {}, "black ", input(0, "black")), h("label", {}, "white ", input(1, "white"))),
    );
  }

  /** The values of an image that are shown as black and white. */
  private window(side: Side): [number, number] {
    return this.ui.window[side] ?? this.current.sides[side].window;
  }

  private setWindow(side: Side, window: [number, number] | null): void {
    this.ui.window[side] = window;
    const [black, white] = this.window(side);
    this.sliders[side].forEach((slider, k) => (slider.value = String(k ? white : black)));
    const [from, to] = [black, white].map((v) => Number(v.toPrecision(4)));
    this.say(`${side === "fixed" ? "Fixed" : "Moving"} image: black is ${from}, white ${to}.${window ? " W shows it as it was opened." : ""}`);
    this.redraw();
  }

  private arrange(side: Side): void {
    this.views[side].forEach((v, k) => v.element.classList.toggle("large", k === this.main[side]));
  }

  // -- Stage --------------------------------------------------------------------------------------

  state(): SessionInfo {
    return this.current;
  }

  cursor(): Cursor | null {
    return this.pointer;
  }

  outlines(side: Side, plane: string, slice: number): Outlines | null {
    const key = `${side}/${plane}/${slice}`;
    const known = this.lines.get(key);
    const marks = this.current.marks;
    if (known && (known.marks === marks || known.asked)) return known.value;
    const entry = { marks: known?.marks ?? -1, value: known?.value ?? null, asked: null as Promise<void> | null };
    this.lines.delete(key);
    this.lines.set(key, entry);
    for (const old of [...this.lines.keys()].slice(0, Math.max(0, this.lines.size - 60))) this.lines.delete(old);
    entry.asked = this.api
      .outlines(side, plane, slice)
      .then((value) => {
        entry.value = value;
        entry.marks = marks;
      })
      .catch((e) => this.fail(e))
      .finally(() => {
        entry.asked = null;
        this.views[side].forEach((v) => v.draw());
      });
    return entry.value;
  }

  /** Wait until the outlines of all slices that are shown are those of the state as it is. */
  private async outlined(): Promise<void> {
    const shown = [...this.views.fixed, ...this.views.moving].map((v) => {
      this.outlines(v.side, v.plane.name, v.slice);
      return this.lines.get(`${v.side}/${v.plane.name}/${v.slice}`)?.asked;
    });
    await Promise.all(shown);
  }

  grid(plane: string, slice: number): Line[] | null {
    const key = `${plane}/${slice}`;
    const version = this.current.fitting.version;
    const known = this.grids.get(key);
    if (known?.version === version) return known.value;
    const entry = { version, value: known?.value ?? null };
    this.grids.set(key, entry);
    for (const old of [...this.grids.keys()].slice(0, Math.max(0, this.grids.size - 30))) this.grids.delete(old);
    this.api
      .grid(plane, slice)
      .then((value) => {
        entry.value = value;
        this.redraw();
      })
      .catch((e) => this.fail(e));
    return entry.value;
  }

  hover(side: Side, world: Vec | null, view: PlaneView): void {
    if (!world) return;
    this.pointer = { side, point: world, other: this.pointer?.side === side ? this.pointer.other : null, radius: this.pointer?.radius ?? 0, inside: this.pointer?.inside ?? false, linked: this.pointer?.linked ?? false };
    this.wish = this.pointed = { side, world, view };
    this.redraw(side);
    void this.link();
  }

  /** Ask for the counterpart of the cursor, one question at a time. */
  private async link(): Promise<void> {
    if (this.asking) return;
    this.asking = true;
    while (this.wish) {
      const { side, world, view } = this.wish;
      this.wish = null;
      try {
        const began = performance.now();
        const mapped = await this.api.map(side, [world]);
        this.note("map", performance.now() - began);
        this.pointer = { side, point: world, other: mapped.points[0]!, radius: mapped.radius[0]!, inside: mapped.inside[0]!, linked: mapped.linked };
        this.follow(side, view);
      } catch (e) {
        this.fail(e);
      }
      this.redraw();
    }
    this.asking = false;
  }

  /** The other image shows the slice of the counterpart: at once in the same plane, in the others when the cursor rests. */
  private follow(side: Side, view: PlaneView): void {
    const cursor = this.pointer;
    if (!cursor?.other || this.current.dimension === 2) return;
    const target = cursor.other;
    const same = this.views[otherSide(side)].find((v) => v.plane.name === view.plane.name);
    same?.setSlice(sliceOf(same.plane, target));
    window.clearTimeout(this.following);
    this.following = window.setTimeout(() => {
      for (const v of this.views[otherSide(side)]) v.setSlice(sliceOf(v.plane, target));
      for (const v of this.views[side]) if (v !== view) v.setSlice(sliceOf(v.plane, cursor.point));
    }, 90);
  }

  focus(view: PlaneView): void {
    this.focused = view;
  }

  point(view: PlaneView, world: Vec, negative: boolean, more: boolean): void {
    this.hover(view.side, world, view);
    if (this.ui.tool === "landmark") {
      void this.setLandmark(view.side, world);
    } else {
      this.addPoints(view.side, [world], negative, more || negative);
    }
  }

  box(view: PlaneView, from: Vec, to: Vec): void {
    // A box drawn on a slice of a volume is as deep as it is wide.
    const p = view.plane;
    const corners = [from, to].map((w) => w.slice());
    if (this.current.dimension === 3) {
      const extent = Math.max(...from.map((v, i) => Math.abs(v - to[i]!))) / 2;
      const normal = p.world.map((row) => row[2]!);
      const length = Math.hypot(...normal);
      corners.forEach((c, k) => c.forEach((_, i) => (c[i] = c[i]! + ((k ? 1 : -1) * extent * normal[i]!) / length)));
    }
    void this.ask({ side: view.side, points: [], labels: [], box: corners });
  }

  stroke(view: PlaneView, points: Vec[], negative: boolean): void {
    if (this.ui.tool === "scribble") {
      this.addPoints(view.side, thinned(points, 9), negative, negative);
      return;
    }
    const id = this.ui.selected;
    if (id === null) {
      this.say("Choose a pair first; the brush changes its region.");
      return;
    }
    const radius = this.ui.brush / view.view.zoom;
    void this.guarded(async () => this.take(await this.api.brush(id, view.side, thinned(points, 400), radius, negative)));
  }

  scrolled(view: PlaneView): void {
    const [w, hgt] = view.size;
    const cursor = this.pointer?.side === view.side ? view.pixel(this.pointer.point) : toPixel(view.plane, view.view, [w / 2, hgt / 2]);
    this.hover(view.side, worldOf(view.plane, [cursor[0], cursor[1]], view.slice), view);
  }

  contrast(side: Side, brighter: number, contrast: number): void {
    this.setWindow(side, rewindowed(this.window(side), brighter, contrast));
  }

  // -- prompts ------------------------------------------------------------------------------------

  private addPoints(side: Side, points: Vec[], negative: boolean, more: boolean): void {
    const last = more && this.prompt?.side === side ? this.prompt : null;
    if (negative && !last) {
      this.say("First point at something inside the region; then at what is outside.");
      return;
    }
    const labels = points.map(() => (negative ? 0 : 1));
    void this.ask({ side, points: [...(last?.points ?? []), ...points], labels: [...(last?.labels ?? []), ...labels], box: last?.box ?? null });
  }

  private async ask(prompt: NonNullable<App["prompt"]>): Promise<void> {
    this.prompt = prompt;
    await this.guarded(async () => {
      const began = performance.now();
      this.root.classList.add("asking");
      const proposal = await this.api.prompt(prompt.side, prompt.points, prompt.labels, prompt.box);
      this.current = { ...this.current, proposal };
      await this.refresh();
      this.tell();
      await this.outlined();
      this.note("click", performance.now() - began);
    });
    this.root.classList.remove("asking");
  }

  private tell(): void {
    const p = this.current.proposal;
    if (!p) return;
    if (!p.other) {
      this.say(`No counterpart: ${p.reason}.`);
      return;
    }
    this.say(`Counterpart found, confidence ${Math.round(100 * p.confidence)} %. Enter keeps it.`);
    const other = otherSide(p.side);
    for (const v of this.views[other]) v.show(p.found?.points[0] ?? p.other.centroid);
    if (this.current.dimension === 3 && p.own) for (const v of this.views[p.side]) v.setSlice(sliceOf(v.plane, p.prompt.points[0] ?? p.own.centroid));
  }

  // -- what buttons and keys do -------------------------------------------------------------------

  act(action: string): void {
    const { ui } = this;
    const [name, detail] = action.split(":");
    const selected = ui.selected;
    const actions: Record<string, () => void> = {
      tool: () => this.setTool(detail as Tool),
      ask: () => this.atCursor((side, world) => this.addPoints(side, [world], false, false)),
      askNot: () => this.atCursor((side, world) => this.addPoints(side, [world], true, true)),
      larger: () => void this.rescale(1),
      smaller: () => void this.rescale(-1),
      accept: () => void this.accept(),
      dismiss: () => void this.dismiss(),
      next: () => this.step(1),
      previous: () => this.step(-1),
      acceptPair: () => selected !== null && void this.setStatus(selected, "accepted"),
      rejectPair: () => selected !== null && void this.setStatus(selected, "rejected"),
      delete: () => {
        if (ui.landmark !== null && selected === null) void this.deleteLandmark(ui.landmark);
        else if (selected !== null) void this.deletePair(selected);
      },
      undo: () => void this.guarded(async () => { const { undone } = await this.api.undo(); this.say(undone ? `Undone: ${undone}.` : "There is nothing to undo."); }),
      redo: () => void this.guarded(async () => { const { done } = await this.api.redo(); this.say(done ? `Done again: ${done}.` : "There is nothing to redo."); }),
      landmark: () => this.atCursor((side, world) => void this.setLandmark(side, world)),
      nextLandmark: () => this.stepLandmark(),
      jumpLandmark: () => this.jumpLandmark(),
      fit: () => void this.guarded(() => this.api.fit("full")),
      cancel: () => void this.guarded(() => this.api.cancel()),
      place: () => this.nextPlace(),
      export: () => void this.guarded(() => this.api.export(null)),
      compare: () => this.set(() => (ui.compare = nextOf(COMPARES, ui.compare))),
      before: () => this.set(() => (ui.after = !ui.after)),
      grid: () => this.set(() => (ui.grid = !ui.grid)),
      jacobian: () => this.set(() => (ui.jacobian = !ui.jacobian)),
      doubt: () => this.set(() => (ui.doubt = !ui.doubt)),
      outlines: () => this.set(() => (ui.outlines = nextOf(OUTLINES, ui.outlines))),
      window: () => this.rewindow(detail!),
      plane: () => this.nextPlane(),
      otherPane: () => this.otherPane(),
      whole: () => this.all((v) => v.fitView()),
      help: () => this.help(),
    };
    actions[name!]?.();
  }

  private key(e: KeyboardEvent): void {
    const target = e.target as HTMLElement;
    if (target.closest("input:not([type=checkbox]):not([type=range]), textarea, select, dialog")) return;
    const action = actionOf(e);
    if (!action) return;
    const onCanvas = target instanceof HTMLCanvasElement;
    // Buttons keep their own keys.
    if ((nameOf(e) === "Space" || nameOf(e) === "Enter") && target.closest("button, summary, a, input") && !onCanvas) return;
    if (target instanceof HTMLInputElement && e.key.startsWith("Arrow")) return;
    const view = onCanvas ? this.focused : (this.focused ?? this.views.fixed[this.main.fixed]!);
    if (action === "arrow" || action === "zoom" || action === "slice") {
      if (!view || (action === "arrow" && !onCanvas)) return;
      if (action === "arrow") this.moveCursor(view, e);
      else if (action === "zoom") view.zoomBy(e.key === "-" ? 1 / 1.25 : 1.25);
      else if (onCanvas) view.scroll(e.key === "PageUp" ? -1 : 1);
      else return;
    } else {
      this.act(action);
    }
    e.preventDefault();
  }

  private moveCursor(view: PlaneView, e: KeyboardEvent): void {
    const step = e.shiftKey ? 10 : 1;
    const [w, hgt] = view.size;
    const from = view.keyed ?? (this.pointer?.side === view.side ? view.pixel(this.pointer.point) : toPixel(view.plane, view.view, [w / 2, hgt / 2]));
    const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[e.key] ?? [0, 0];
    const to: [number, number] = [
      Math.min(Math.max(Math.round(from[0] + by[0]!), 0), view.plane.columns - 1),
      Math.min(Math.max(Math.round(from[1] + by[1]!), 0), view.plane.rows - 1),
    ];
    view.keyed = to;
    this.hover(view.side, worldOf(view.plane, to, view.slice), view);
  }

  private atCursor(then: (side: Side, world: Vec) => void): void {
    if (this.pointer) then(this.pointer.side, this.pointer.point);
    else this.say("Point at a place first, with the mouse or with the arrow keys.");
  }

  private set(change: () => void): void {
    change();
    this.render();
  }

  setTool(tool: Tool): void {
    this.set(() => (this.ui.tool = tool));
    if (tool === "brush" && this.ui.selected === null) this.say("Choose a pair; the brush adds to its region, with Shift it takes away.");
  }

  private async rescale(step: 1 | -1): Promise<void> {
    await this.guarded(async () => {
      const began = performance.now();
      const proposal = await this.api.scale(step);
      this.current = { ...this.current, proposal };
      await this.refresh();
      this.tell();
      await this.outlined();
      this.note("scale", performance.now() - began);
    });
  }

  private async accept(): Promise<void> {
    if (!this.current.proposal) return;
    await this.guarded(async () => {
      const known = new Set(this.current.pairs.map((p) => p.id));
      const { id } = await this.api.accept();
      this.prompt = null;
      await this.refresh();
      this.select(id, false);
      this.say(known.has(id) ? `Pair ${id} has this answer now, in place of the one before.` : `Kept as pair ${id}.`);
    });
  }

  private async dismiss(): Promise<void> {
    this.prompt = null;
    if (this.current.proposal) await this.guarded(() => this.api.dismiss());
    else this.set(() => (this.ui.selected = null));
  }

  select(id: number | null, jump = true): void {
    this.set(() => (this.ui.selected = id));
    const pair = this.current.pairs.find((p) => p.id === id);
    if (!pair || !jump) return;
    for (const side of ["fixed", "moving"] as const) this.views[side].forEach((v) => v.show(pair[side].centroid));
  }

  private step(by: number): void {
    const ids = this.current.pairs.filter((p) => p.status !== "rejected" || this.ui.rejected).map((p) => p.id);
    if (!ids.length) return;
    this.select(this.ui.selected === null ? ids[by > 0 ? 0 : ids.length - 1]! : nextOf(ids, this.ui.selected, by));
  }

  async setStatus(id: number, status: Status): Promise<void> {
    await this.guarded(async () => this.take(await this.api.changePair(id, { status })));
  }

  async deletePair(id: number): Promise<void> {
    if (this.ui.selected === id) this.ui.selected = null;
    await this.guarded(() => this.api.deletePair(id));
    this.say(`Pair ${id} is deleted; Undo brings it back.`);
  }

  resort(): void {
    this.set(() => (this.sort = this.sort === "number" ? "confidence" : "number"));
  }

  showRejected(): void {
    this.set(() => (this.ui.rejected = !this.ui.rejected));
  }

  async setLive(live: boolean): Promise<void> {
    await this.guarded(() => this.api.live(live));
  }

  async takeLabels(): Promise<void> {
    const files = (["fixed", "moving"] as const).map((side) => document.querySelector<HTMLInputElement>(`#labels-${side}`)?.files?.[0]);
    if (!files[0] || !files[1]) {
      this.say("Choose a label map for each image.");
      return;
    }
    await this.guarded(async () => {
      const places = await Promise.all(files.map((f, k) => this.api.upload(`${k ? "moving" : "fixed"}-${f!.name.replace(/[^A-Za-z0-9._-]/g, "_")}`, f!)));
      const { count } = await this.api.labels(places[0]!, places[1]!);
      this.say(`${count} labels are pairs now.`);
    });
  }

  // -- landmarks ----------------------------------------------------------------------------------

  private async setLandmark(side: Side, world: Vec): Promise<void> {
    await this.guarded(async () => {
      const chosen = this.current.landmarks.find((m) => m.id === this.ui.landmark);
      const id = chosen && !chosen[side] ? chosen.id : undefined;
      const set = await this.api.landmark(side, world, id);
      await this.refresh();
      const mark = this.current.landmarks.find((m) => m.id === set.id)!;
      this.ui.landmark = mark.fixed && mark.moving ? null : mark.id;
      const error = mark.error === null ? "" : ` The registration misses it by ${mark.error.toFixed(1)} ${this.current.unit}.`;
      this.say(mark.fixed && mark.moving ? `${mark.name} is set in both images.${error}` : `${mark.name} is set in the ${side} image; now the same place in the ${otherSide(side)} image.`);
      this.render();
      if (!(mark.fixed && mark.moving)) this.jump(side, world, true);
    });
  }

  chooseLandmark(id: number): void {
    this.set(() => {
      this.ui.landmark = id;
      this.ui.selected = null;
    });
    this.jumpLandmark();
  }

  private stepLandmark(): void {
    const ids = this.current.landmarks.map((m) => m.id);
    if (ids.length) this.chooseLandmark(this.ui.landmark === null ? ids[0]! : nextOf(ids, this.ui.landmark));
    else this.say("There is no landmark yet; L sets one.");
  }

  private jumpLandmark(): void {
    const mark = this.current.landmarks.find((m) => m.id === this.ui.landmark);
    if (!mark) return;
    for (const side of ["fixed", "moving"] as const) {
      const point = mark[side];
      if (point) this.views[side].forEach((v) => v.show(point));
    }
    const side = mark.fixed ? "fixed" : "moving";
    if (!mark.fixed || !mark.moving) this.jump(side, mark[side]!, true);
  }

  async deleteLandmark(id: number): Promise<void> {
    this.ui.landmark = null;
    await this.guarded(() => this.api.deleteLandmark(id));
  }

  async download(side: Side, kind: "csv" | "mrk.json"): Promise<void> {
    await this.guarded(async () => {
      const address = URL.createObjectURL(await this.api.landmarkFile(side, kind));
      const link = h("a", { href: address, download: `landmarks_${side}.${kind}` });
      link.click();
      window.setTimeout(() => URL.revokeObjectURL(address), 10_000);
    });
  }

  // -- places -------------------------------------------------------------------------------------

  /** Show a place and its counterpart in both images. */
  jump(side: Side, point: Vec, otherOnly = false): void {
    const view = this.views[side][this.main[side]]!;
    if (!otherOnly) this.views[side].forEach((v) => v.show(point));
    this.hover(side, point, view);
    void this.api
      .map(side, [point])
      .then((mapped) => {
        if (mapped.inside[0]) this.views[otherSide(side)].forEach((v) => v.show(mapped.points[0]!));
      })
      .catch((e) => this.fail(e));
  }

  private nextPlace(): void {
    const places = this.current.fitting.fit?.places ?? [];
    if (!places.length) {
      this.say("There is no place to show yet; register first.");
      return;
    }
    this.placeShown = (this.placeShown + 1) % places.length;
    const place = places[this.placeShown]!;
    this.say(`${place.what[0]!.toUpperCase()}${place.what.slice(1)}.`);
    this.jump("fixed", place.point);
  }

  private rewindow(how: string): void {
    const side = this.pointer?.side ?? this.focused?.side ?? "fixed";
    const steps: Record<string, [number, number]> = { brighter: [0.1, 1], darker: [-0.1, 1], more: [0, 1.25], less: [0, 0.8] };
    const step = steps[how];
    if (step) this.contrast(side, ...step);
    else this.setWindow(side, null);
  }

  private nextPlane(): void {
    if (this.current.dimension === 2) return;
    for (const side of ["fixed", "moving"] as const) {
      this.main[side] = (this.main[side] + 1) % this.views[side].length;
      this.arrange(side);
    }
  }

  private otherPane(): void {
    const side = this.focused ? otherSide(this.focused.side) : "fixed";
    const name = this.focused?.plane.name;
    const view = this.views[side].find((v) => v.plane.name === name) ?? this.views[side][this.main[side]]!;
    // The cursor goes along to its counterpart.
    const cursor = this.pointer;
    view.canvas.focus();
    if (cursor && cursor.side !== side && cursor.other && cursor.inside) {
      const [x, y] = view.pixel(cursor.other);
      view.keyed = [x, y];
      this.hover(side, cursor.other, view);
    }
  }

  private all(what: (view: PlaneView) => void): void {
    for (const side of ["fixed", "moving"] as const) this.views[side].forEach(what);
  }

  redraw(side?: Side): void {
    if (side) this.views[side].forEach((v) => v.draw());
    else this.all((v) => v.draw());
  }

  // -- the server ---------------------------------------------------------------------------------

  private take(state: SessionInfo): void {
    if (state.version < this.current.version) return;
    const moved = state.fitting.version !== this.current.fitting.version;
    this.current = state;
    if (this.ui.selected !== null && !state.pairs.some((p) => p.id === this.ui.selected)) this.ui.selected = null;
    this.render();
    // Under another transform the cursor has another counterpart.
    if (moved && this.pointed) {
      this.wish ??= this.pointed;
      void this.link();
    }
  }

  private async refresh(): Promise<void> {
    this.take(await this.api.state());
  }

  private async listen(): Promise<void> {
    let since = -1;
    while (!this.ended) {
      try {
        const state = await this.api.news(since);
        since = state.version;
        this.banner.hidden = true;
        if (state.closed) throw new Refusal(404, "this session was closed in another window");
        this.take(state);
      } catch (e) {
        this.fail(e);
        await new Promise((resolve) => window.setTimeout(resolve, 1500));
      }
    }
  }

  private async guarded(work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch (e) {
      this.fail(e);
    }
  }

  private fail(e: unknown): void {
    if (e instanceof Silence) {
      this.block("The viewer's server has stopped. Start it again with the same command and open the new address; what you decided is kept.");
    } else if (e instanceof Refusal && e.status === 401) {
      this.ended = true;
      this.block("This address is of an earlier start. Open the address that the server printed last.");
    } else if (e instanceof Refusal && e.status === 404) {
      this.ended = true;
      this.block(`This pair is not open any more: ${e.message}.`);
    } else {
      this.say(sentence(e instanceof Error ? e.message : String(e)));
    }
  }

  private block(text: string): void {
    this.banner.textContent = text;
    this.banner.hidden = false;
  }

  say(text: string): void {
    this.message.textContent = text;
  }

  private note(kind: string, ms: number): void {
    const list = (this.times[kind] ??= []);
    list.push(ms);
    if (list.length > 500) list.shift();
  }

  // -- the rest of the page -----------------------------------------------------------------------

  private shownBar = "";

  private render(): void {
    this.renderBar();
    this.panel.render(this.current);
    this.root.dataset.tool = this.ui.tool;
    this.redraw();
  }

  private renderBar(): void {
    const { ui } = this;
    const { linked } = this.current;
    const text = JSON.stringify([ui.tool, ui.compare, ui.after, ui.grid, ui.jacobian, ui.doubt, ui.outlines, ui.brush, linked]);
    if (text === this.shownBar) return;
    this.shownBar = text;
    const toggle = (key: string, label: string, on: boolean, title: string, disabled = false) =>
      h("button", { "data-key": key, "aria-pressed": on, title, disabled, click: () => this.act(key) }, label);
    const focus = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.key : undefined;
    this.toolbar.replaceChildren(
      h(
        "div",
        { class: "group", role: "group", "aria-label": "Tool" },
        ...TOOLS.map((tool, k) => h("button", { "data-key": `tool-${tool}`, "aria-pressed": ui.tool === tool, title: `${TOOL_NAMES[tool]} (${k + 1})`, click: () => this.setTool(tool) }, TOOL_NAMES[tool])),
      ),
      ...(ui.tool === "brush"
        ? [h("label", { class: "brush" }, "size ", h("input", { type: "range", min: 2, max: 60, value: ui.brush, "data-key": "brush", input: (e: Event) => { ui.brush = Number((e.target as HTMLInputElement).value); this.redraw(); } }))]
        : []),
      h(
        "div",
        { class: "group", role: "group", "aria-label": "Compare" },
        h(
          "select",
          { "data-key": "compare", "aria-label": "Comparison in the fixed image", title: "Comparison (C)", disabled: !linked, change: (e: Event) => this.set(() => (ui.compare = (e.target as HTMLSelectElement).value as typeof ui.compare)) },
          ...COMPARES.map((c) => h("option", { value: c, selected: c === ui.compare }, COMPARE_NAMES[c])),
        ),
        toggle("before", ui.after ? "After" : "Before", !ui.after, "Before or after (B)", !linked),
        toggle("grid", "Grid", ui.grid, "Deformed grid (G)", !linked),
        toggle("jacobian", "det J", ui.jacobian, "Change of size (D): orange grows, blue shrinks, yellow folds", !linked),
        toggle("doubt", "Uncertainty", ui.doubt, "Where counterparts are less certain (U)", !linked),
        h("button", { "data-key": "outlines", title: "Outlines: the best proposals, all, or none (H)", click: () => this.act("outlines") }, `Outlines: ${ui.outlines}`),
      ),
    );
    if (focus) this.toolbar.querySelector<HTMLElement>(`[data-key="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
  }

  private theme(): void {
    const dark = document.documentElement.dataset.theme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  }

  private help(): void {
    const groups = [...new Set(BINDINGS.map((b) => b.group))];
    const dialog = h(
      "dialog",
      { class: "help", "aria-label": "Keys", close: () => dialog.remove() },
      h("h2", {}, "Keys"),
      h(
        "div",
        { class: "columns" },
        ...groups.map((g) =>
          h("div", {}, h("h3", {}, g), h("dl", {}, ...BINDINGS.filter((b) => b.group === g).flatMap((b) => [h("dt", {}, ...b.keys.map((k) => h("kbd", {}, k.replace("Arrow", "")))), h("dd", {}, b.does)]))),
        ),
      ),
      h("p", { class: "hint" }, "Mouse: click asks; Shift or the right button says “outside”; Ctrl adds a point; the wheel zooms, in volumes it turns slices and zooms with Ctrl; the middle button moves the image."),
      h("button", { class: "primary", autofocus: true, click: () => dialog.close() }, "Close"),
    );
    document.body.append(dialog);
    dialog.showModal();
  }
}
