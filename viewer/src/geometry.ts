import type { PlaneInfo, Vec } from "./types";

export type Point = readonly [number, number];

/** World point of a pixel (column, row) on a slice; pixel (0, 0) is a centre. */
export function worldOf(plane: PlaneInfo, pixel: Point, slice: number): number[] {
  return plane.world.map((row) => row[0]! * pixel[0] + row[1]! * pixel[1] + row[2]! * slice + row[3]!);
}

/** (column, row, slice) of a world point; the slice is not rounded, and 0 in 2D. */
export function pixelOf(plane: PlaneInfo, world: Vec): [number, number, number] {
  const d = plane.world.length;
  const b = plane.world.map((row, i) => world[i]! - row[3]!);
  if (d === 2) {
    const [[a, c], [e, f]] = [
      [plane.world[0]![0]!, plane.world[0]![1]!],
      [plane.world[1]![0]!, plane.world[1]![1]!],
    ];
    const det = a! * f! - c! * e!;
    return [(b[0]! * f! - b[1]! * c!) / det, (a! * b[1]! - e! * b[0]!) / det, 0];
  }
  const m = plane.world;
  const col = (k: number): Vec => [m[0]![k]!, m[1]![k]!, m[2]![k]!];
  const [p, q, r] = [col(0), col(1), col(2)];
  const det = dot(p, cross(q, r));
  return [dot(b, cross(q, r)) / det, dot(p, cross(b, r)) / det, dot(p, cross(q, b)) / det];
}

function dot(a: Vec, b: Vec): number {
  return a.reduce((sum, v, i) => sum + v * b[i]!, 0);
}

function cross(a: Vec, b: Vec): Vec {
  return [a[1]! * b[2]! - a[2]! * b[1]!, a[2]! * b[0]! - a[0]! * b[2]!, a[0]! * b[1]! - a[1]! * b[0]!];
}

export function sliceOf(plane: PlaneInfo, world: Vec): number {
  return clamp(Math.round(pixelOf(plane, world)[2]), 0, plane.count - 1);
}

export function clamp(value: number, low: number, high: number): number {
  return Math.min(Math.max(value, low), high);
}

/** How a plane lies on the screen: `zoom` screen pixels per world unit, the plane's pixel (0, 0) at (x, y). */
export interface Viewport {
  zoom: number;
  x: number;
  y: number;
}

export function fitted(plane: PlaneInfo, width: number, height: number): Viewport {
  const [w, h] = [plane.columns * plane.size[0], plane.rows * plane.size[1]];
  const zoom = Math.max(1e-6, 0.98 * Math.min(width / w, height / h));
  return {
    zoom,
    x: (width - w * zoom) / 2 + 0.5 * plane.size[0] * zoom,
    y: (height - h * zoom) / 2 + 0.5 * plane.size[1] * zoom,
  };
}

export function toScreen(plane: PlaneInfo, view: Viewport, pixel: Point): [number, number] {
  return [view.x + pixel[0] * plane.size[0] * view.zoom, view.y + pixel[1] * plane.size[1] * view.zoom];
}

export function toPixel(plane: PlaneInfo, view: Viewport, screen: Point): [number, number] {
  return [(screen[0] - view.x) / (plane.size[0] * view.zoom), (screen[1] - view.y) / (plane.size[1] * view.zoom)];
}

/** Zoom around a point of the screen, which stays where it is. */
export function zoomed(view: Viewport, factor: number, at: Point): Viewport {
  return {
    zoom: view.zoom * factor,
    x: at[0] - (at[0] - view.x) * factor,
    y: at[1] - (at[1] - view.y) * factor,
  };
}

export const TILE = 512;

export interface TilePlace {
  level: number;
  column: number;
  row: number;
  /** Corners in pixels of the plane. */
  x0: number;
  y0: number;
  x1: number;
  y1: number;
}

function coarser(n: number, level: number): number {
  for (let k = 0; k < level; k++) n = Math.ceil(n / 2);
  return n;
}

/** Values shown as black and white, made brighter by a share of their distance, and with a contrast higher by a factor. */
export function rewindowed([black, white]: [number, number], brighter: number, contrast: number): [number, number] {
  const width = (white - black) / contrast;
  const middle = (black + white) / 2 - brighter * width;
  return [middle - width / 2, middle + width / 2];
}

/** The level whose pixels are about as large as those of the screen, never finer than needed. */
export function levelFor(plane: PlaneInfo, view: Viewport, levels: number, ratio = 1): number {
  const perPixel = 1 / (Math.min(plane.size[0], plane.size[1]) * view.zoom * ratio);
  return clamp(Math.floor(Math.log2(Math.max(perPixel, 1)) + 1e-9), 0, levels - 1);
}

/** The tiles of a level that a screen of a size shows. */
export function tilesFor(plane: PlaneInfo, view: Viewport, level: number, width: number, height: number): TilePlace[] {
  const [columns, rows] = [coarser(plane.columns, level), coarser(plane.rows, level)];
  const [fx, fy] = [plane.columns / columns, plane.rows / rows];
  const low = toPixel(plane, view, [0, 0]);
  const high = toPixel(plane, view, [width, height]);
  const first = [(low[0] + 0.5) / fx / TILE, (low[1] + 0.5) / fy / TILE].map((v) => Math.max(0, Math.floor(v)));
  const last = [
    Math.min(Math.ceil(columns / TILE) - 1, Math.floor((high[0] + 0.5) / fx / TILE)),
    Math.min(Math.ceil(rows / TILE) - 1, Math.floor((high[1] + 0.5) / fy / TILE)),
  ];
  const tiles: TilePlace[] = [];
  for (let row = first[1]!; row <= last[1]!; row++) {
    for (let column = first[0]!; column <= last[0]!; column++) {
      tiles.push({
        level,
        column,
        row,
        x0: column * TILE * fx - 0.5,
        y0: row * TILE * fy - 0.5,
        x1: Math.min((column + 1) * TILE, columns) * fx - 0.5,
        y1: Math.min((row + 1) * TILE, rows) * fy - 0.5,
      });
    }
  }
  return tiles;
}

/** Points along a stroke, at most `most`, its ends included. */
export function thinned<T>(points: readonly T[], most: number): T[] {
  if (points.length <= most) return [...points];
  return Array.from({ length: most }, (_, k) => points[Math.round((k * (points.length - 1)) / (most - 1))]!);
}
