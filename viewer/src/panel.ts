import { fill, h } from "./dom";
import { number, percent, taskText, VERDICTS } from "./words";
import type { App } from "./app";
import type { FitInfo, PairInfo, PlaceInfo, SessionInfo, TaskInfo } from "./types";

const SOURCES: Record<string, string> = {
  prompt: "your click",
  regions: "found",
  labels: "label map",
  user: "given",
};
const KEY_METRICS = ["lncc2", "ncc", "folding_percent", "inverse_consistency_mean", "sdlogj", "pair_agreement"];

/** The column beside the images: answer, pairs, registration, landmarks. */
export class Panel {
  readonly element = h("aside", { class: "panel", "aria-label": "Pairs and registration" });
  private readonly parts: Record<string, { element: HTMLElement; shown: string }> = {};

  constructor(private readonly app: App) {
    for (const name of ["answer", "pairs", "fit", "landmarks", "export"]) {
      const element = h("section", { class: `part part-${name}` });
      this.parts[name] = { element, shown: "" };
      this.element.append(element);
    }
  }

  render(state: SessionInfo): void {
    const { ui } = this.app;
    this.part("answer", [state.proposal, state.ready, state.linked, state.preparing], () => this.answer(state));
    this.part("pairs", [state.pairs, ui.selected, ui.rejected, state.undo, state.redo, this.app.sort], () => this.pairs(state));
    this.part("fit", [state.fitting, state.preparing], () => this.fit(state));
    this.part("landmarks", [state.landmarks, ui.landmark, state.unit], () => this.landmarks(state));
    this.part("export", [state.out, state.fitting.task, state.landmarks.length], () => this.export(state));
  }

  /** Make a part again only when what it shows has changed: focus and scrolling stay. */
  private part(name: string, shows: unknown, make: () => (Node | string | null)[]): void {
    const part = this.parts[name]!;
    const text = JSON.stringify(shows);
    if (part.shown === text) return;
    part.shown = text;
    fill(part.element, ...make());
  }

  private answer(state: SessionInfo): (Node | string | null)[] {
    const p = state.proposal;
    const head = h("h2", {}, "Answer");
    if (!state.ready) {
      const task = state.preparing;
      if (task?.state === "failed") return [head, h("p", { class: "bad" }, task.error)];
      return [head, h("p", {}, "Getting the images ready for clicks …"), h("progress", {}), elapsed(task)];
    }
    if (!p) {
      const wait = state.linked
        ? null
        : state.preparing?.state === "failed"
          ? h("p", { class: "bad" }, `No first alignment: ${state.preparing.error}`)
          : h("p", { class: "hint" }, "The first alignment is still being found; answers get better then.");
      return [head, h("p", {}, "Click a structure in either image."), wait];
    }
    const scales =
      p.scales > 1
        ? h(
            "div",
            { class: "row" },
            this.button("smaller", "Smaller [", () => this.app.act("smaller"), p.scale === 0),
            this.button("larger", "Larger ]", () => this.app.act("larger"), p.scale === p.scales - 1),
            h("span", { class: "hint" }, p.scale === null ? `${p.scales} sizes` : `size ${p.scale + 1} of ${p.scales}`),
          )
        : null;
    const notes = p.notes.map((n) => h("p", { class: "hint" }, n));
    if (!p.other) return [head, h("p", { class: "bad" }, `No counterpart: ${p.reason}.`), scales, ...notes];
    return [
      head,
      h("p", {}, "Counterpart found, confidence ", h("b", {}, percent(p.confidence)), "."),
      state.linked ? null : h("p", { class: "bad" }, "The images are not aligned yet: check this answer, it may be elsewhere."),
      meter(p.confidence),
      scales,
      h(
        "div",
        { class: "row" },
        this.button("accept", "Keep (Enter)", () => this.app.act("accept"), false, "primary"),
        this.button("dismiss", "Forget (Esc)", () => this.app.act("dismiss")),
      ),
      ...notes,
    ];
  }

  private pairs(state: SessionInfo): (Node | string | null)[] {
    const { ui } = this.app;
    const shown = state.pairs.filter((p) => ui.rejected || p.status !== "rejected");
    const rank = { accepted: 0, proposed: 1, rejected: 2 };
    const sorted = [...shown].sort((a, b) =>
      this.app.sort === "number" ? a.id - b.id : rank[a.status] - rank[b.status] || b.confidence - a.confidence,
    );
    const count = (status: string) => state.pairs.filter((p) => p.status === status).length;
    const rejected = count("rejected");
    return [
      h("h2", {}, "Pairs ", h("small", {}, `${count("accepted")} kept, ${count("proposed")} proposed`)),
      h(
        "div",
        { class: "row" },
        this.button("undo", "Undo", () => this.app.act("undo"), !state.undo, "", state.undo ? `Undo: ${state.undo}` : ""),
        this.button("redo", "Redo", () => this.app.act("redo"), !state.redo, "", state.redo ? `Redo: ${state.redo}` : ""),
        this.button("sort", this.app.sort === "number" ? "Sorted by number" : "Sorted by confidence", () => this.app.resort()),
        rejected ? this.button("rejected", ui.rejected ? `Hide ${rejected} rejected` : `Show ${rejected} rejected`, () => this.app.showRejected()) : null,
      ),
      sorted.length
        ? h("ul", { class: "pairs", "aria-label": "Pairs" }, ...sorted.map((p) => this.pair(p)))
        : h("p", { class: "hint" }, "None yet. Click and keep, or register: regions that correspond are proposed then."),
      h(
        "details",
        {},
        h("summary", { "data-key": "labels" }, "Label maps as regions"),
        h("p", { class: "hint" }, "Two label maps on the grids of the images; equal numbers correspond."),
        this.file("labels-fixed", "fixed"),
        this.file("labels-moving", "moving"),
        h("div", { class: "row" }, this.button("take-labels", "Use them", () => void this.app.takeLabels())),
      ),
    ];
  }

  private file(id: string, side: string): HTMLElement {
    return h("label", { class: "file" }, `${side} `, h("input", { type: "file", id, "data-key": id }));
  }

  private pair(p: PairInfo): HTMLElement {
    const { ui } = this.app;
    const chosen = ui.selected === p.id;
    const set = (status: "accepted" | "rejected" | "proposed") => () => void this.app.setStatus(p.id, p.status === status ? "proposed" : status);
    return h(
      "li",
      { class: `pair ${p.status}${chosen ? " chosen" : ""}` },
      h(
        "button",
        {
          class: "pair-name",
          "data-key": `pair${p.id}`,
          "aria-pressed": chosen,
          "aria-label": `pair ${p.id}, ${p.status}, confidence ${percent(p.confidence)}, ${SOURCES[p.source] ?? p.source}`,
          click: () => this.app.select(chosen ? null : p.id),
        },
        h("i", { class: "swatch", style: `background:${p.colour}` }),
        h("b", {}, String(p.id)),
        h("span", { class: "grow" }, `${p.name ?? SOURCES[p.source] ?? p.source}${p.edited ? ", edited" : ""}`),
        h("span", { class: "confidence" }, percent(p.confidence)),
      ),
      h("button", { class: "mini", "data-key": `ok${p.id}`, title: "Accept (A)", "aria-label": `accept pair ${p.id}`, "aria-pressed": p.status === "accepted", click: set("accepted") }, "✓"),
      h("button", { class: "mini", "data-key": `no${p.id}`, title: "Reject (R)", "aria-label": `reject pair ${p.id}`, "aria-pressed": p.status === "rejected", click: set("rejected") }, "✗"),
      h("button", { class: "mini", "data-key": `del${p.id}`, title: "Delete", "aria-label": `delete pair ${p.id}`, click: () => void this.app.deletePair(p.id) }, "⌫"),
    );
  }

  private fit(state: SessionInfo): (Node | string | null)[] {
    const { fitting } = state;
    const running = fitting.task?.state === "running" ? fitting.task : null;
    const preparing = !running && !state.linked && state.preparing?.state === "running" ? state.preparing : null;
    const parts: (Node | string | null)[] = [h("h2", {}, "Registration")];
    if (running) {
      parts.push(
        h("p", { role: "status" }, taskText(running)),
        bar(running.fraction),
        h("div", { class: "row" }, this.button("cancel", "Cancel", () => this.app.act("cancel"))),
      );
    } else {
      if (preparing) parts.push(h("p", { role: "status" }, "Finding a first alignment …"), bar(preparing.fraction), elapsed(preparing));
      const label = fitting.fit?.kind === "full" && fitting.fit.current ? "Register again (F)" : "Register (F)";
      parts.push(h("div", { class: "row" }, this.button("fit", label, () => this.app.act("fit"), false, "primary")));
    }
    if (fitting.task?.state === "failed") parts.push(h("p", { class: "bad" }, fitting.task.error));
    if (fitting.task?.state === "stopped") parts.push(h("p", { class: "hint" }, "Stopped; nothing was changed."));
    parts.push(
      h(
        "label",
        { class: "check" },
        h("input", { type: "checkbox", "data-key": "live", checked: fitting.live, change: () => void this.app.setLive(!fitting.live) }),
        "Follow my edits at once",
      ),
    );
    if (fitting.note) parts.push(h("p", { class: "hint" }, `${fitting.note}.`));
    if (fitting.fit) parts.push(...this.verdict(fitting.fit));
    return parts;
  }

  private verdict(fit: FitInfo): Node[] {
    const kinds = {
      guide: "first alignment, quick and coarse",
      refit: "quick fit after your edit; Register makes it exact",
      full: fit.current ? "full registration" : "full registration, before your last changes",
      stored: "stored result",
    };
    const coarse = fit.kind === "guide" || fit.kind === "refit";
    const used = new Set<PlaceInfo>();
    const reasons = fit.reasons.map((reason) => {
      const place = fit.places.find((p) => p.topics.some((t) => reason.includes(t)));
      if (place) used.add(place);
      return h("li", {}, place ? this.place(place, reason) : reason);
    });
    const rest = fit.places.filter((p) => !used.has(p));
    const rows = KEY_METRICS.filter((name) => fit.metrics[name]).map((name) => {
      const m = fit.metrics[name]!;
      return h("tr", {}, h("th", { scope: "row" }, m.label), h("td", {}, m.before === null ? "" : number(m.before)), h("td", {}, `${number(m.value)} ${m.unit}`));
    });
    return [
      h("p", { class: `verdict ${fit.verdict}`, role: "status" }, h("b", {}, fit.verdict), ` ${coarse && fit.verdict === "ok" ? "– so far" : VERDICTS[fit.verdict]}`),
      h("p", { class: "hint" }, kinds[fit.kind], "."),
      ...(reasons.length ? [h("ul", { class: "reasons" }, ...reasons)] : []),
      ...(rest.length
        ? [h("details", {}, h("summary", { "data-key": "places" }, "Places worth a look (V)"), h("ul", { class: "reasons" }, ...rest.map((p) => h("li", {}, this.place(p, p.what)))))]
        : []),
      ...(rows.length
        ? [h("details", {}, h("summary", { "data-key": "metrics" }, "Numbers"), h("table", {}, h("tr", {}, h("th", {}, ""), h("th", {}, "before"), h("th", {}, "after")), ...rows))]
        : []),
    ];
  }

  private place(place: PlaceInfo, text: string): HTMLElement {
    return h("button", { class: "link", "data-key": `place${text}`, title: place.what, click: () => this.app.jump("fixed", place.point) }, text);
  }

  private landmarks(state: SessionInfo): (Node | string | null)[] {
    const { ui } = this.app;
    const errors = state.landmarks.map((m) => m.error).filter((e): e is number => e !== null);
    const mean = errors.length ? errors.reduce((a, b) => a + b, 0) / errors.length : null;
    const rows = state.landmarks.map((m) => {
      const missing = !m.fixed ? "set it in the fixed image" : !m.moving ? "set it in the moving image" : null;
      return h(
        "li",
        { class: `pair${ui.landmark === m.id ? " chosen" : ""}` },
        h(
          "button",
          { class: "pair-name", "data-key": `mark${m.id}`, "aria-pressed": ui.landmark === m.id, click: () => this.app.chooseLandmark(m.id) },
          h("b", {}, m.name),
          h("span", { class: "grow" }, missing ?? "in both"),
          h("span", { class: "confidence" }, m.error === null ? "" : `${number(m.error)} ${state.unit}`),
        ),
        h("button", { class: "mini", "data-key": `delmark${m.id}`, "aria-label": `delete landmark ${m.name}`, click: () => void this.app.deleteLandmark(m.id) }, "⌫"),
      );
    });
    return [
      h("h2", {}, "Landmarks ", h("small", {}, mean === null ? "" : `mean error ${number(mean)} ${state.unit}`)),
      rows.length ? h("ul", { class: "pairs", "aria-label": "Landmarks" }, ...rows) : h("p", { class: "hint" }, "Point at a place and press L, then at the same place in the other image and press L again."),
    ];
  }

  private export(state: SessionInfo): (Node | string | null)[] {
    const task = state.fitting.task?.kind === "export" ? state.fitting.task : null;
    const files = state.landmarks.length
      ? [
          h(
            "div",
            { class: "row" },
            ...(["fixed", "moving"] as const).flatMap((side) =>
              (state.dimension === 3 ? (["csv", "mrk.json"] as const) : (["csv"] as const)).map((kind) =>
                this.button(`dl${side}${kind}`, `${side} .${kind}`, () => void this.app.download(side, kind), !state.landmarks.some((m) => m[side])),
              ),
            ),
          ),
        ]
      : [];
    return [
      h("h2", {}, "Export"),
      h("p", { class: "hint" }, "Writes transform, warped image, pairs, landmarks and report. A full registration runs first if your decisions are newer."),
      h("div", { class: "row" }, this.button("export", "Export (E)", () => this.app.act("export"), task?.state === "running")),
      task?.state === "done" ? h("p", { class: "good", role: "status" }, `Written into the folder ${state.out}.`) : null,
      ...files,
    ];
  }

  private button(key: string, text: string, click: () => void, disabled = false, kind = "", title = ""): HTMLButtonElement {
    return h("button", { class: kind || null, "data-key": key, disabled, title: title || null, click }, text);
  }
}

function elapsed(task: TaskInfo | null): HTMLElement | null {
  return task && h("p", { class: "hint" }, `${task.stage}, ${task.seconds.toFixed(0)} s`);
}

function bar(fraction: number): HTMLElement {
  return h("progress", { max: 1, value: fraction.toFixed(3) });
}

function meter(value: number): HTMLElement {
  return h("meter", { min: 0, max: 1, low: 0.4, high: 0.75, optimum: 1, value: value.toFixed(3) });
}
