import type { Side, Vec } from "./types";

export const TOOLS = ["point", "box", "scribble", "brush", "landmark", "move", "contrast"] as const;
export type Tool = (typeof TOOLS)[number];

export const COMPARES = ["off", "curtain", "before-after", "fusion", "checker"] as const;
export type Compare = (typeof COMPARES)[number];

export const OUTLINES = ["best", "all", "none"] as const;
export type OutlineMode = (typeof OUTLINES)[number];

/** How many proposals are drawn besides the pairs that were kept, the most confident ones. */
export const DRAWN = 12;

/** What this window shows and how; nothing of it is known to the server. */
export interface Ui {
  tool: Tool;
  compare: Compare;
  after: boolean;
  /** Place of the slider, share of the width. */
  curtain: number;
  grid: boolean;
  jacobian: boolean;
  doubt: boolean;
  outlines: OutlineMode;
  rejected: boolean;
  brush: number;
  selected: number | null;
  landmark: number | null;
  window: Record<Side, [number, number] | null>;
}

export function freshUi(): Ui {
  return {
    tool: "point",
    compare: "off",
    after: true,
    curtain: 0.5,
    grid: false,
    jacobian: false,
    doubt: false,
    outlines: "best",
    rejected: false,
    brush: 12,
    selected: null,
    landmark: null,
    window: { fixed: null, moving: null },
  };
}

/** A place both panes show: where it was pointed at, and its counterpart. */
export interface Cursor {
  side: Side;
  point: Vec;
  other: Vec | null;
  radius: number;
  inside: boolean;
  linked: boolean;
}

/** The next of a list, round and round. */
export function nextOf<T>(list: readonly T[], value: T, step = 1): T {
  const k = list.indexOf(value);
  return list[(k + step + list.length) % list.length]!;
}
