import { describe, expect, it } from "vitest";
import { fitted, levelFor, pixelOf, rewindowed, sliceOf, thinned, tilesFor, toPixel, toScreen, worldOf, zoomed } from "../src/geometry";
import type { PlaneInfo } from "../src/types";

const letters = { left: "", right: "", top: "", bottom: "" };
const flat: PlaneInfo = { name: "Image", rows: 300, columns: 700, count: 1, world: [[1, 0, 0, 0], [0, 1, 0, 0]], size: [1, 1], letters, unit: "px" };
// An oblique plane: columns and rows turned by 30 degrees, slices of 3 mm.
const [c, s] = [Math.cos(Math.PI / 6), Math.sin(Math.PI / 6)];
const deep: PlaneInfo = {
  name: "Axial", rows: 40, columns: 50, count: 20, size: [2, 1], unit: "mm", letters,
  world: [[2 * c, -s, 0, -30], [2 * s, c, 0, 12], [0, 0, 3, -100]],
};

describe("pixels and the world", () => {
  it.each([flat, deep])("go there and back ($name)", (plane) => {
    const world = worldOf(plane, [12.5, 7], 4);
    const [column, row, slice] = pixelOf(plane, world);
    expect(column).toBeCloseTo(12.5, 9);
    expect(row).toBeCloseTo(7, 9);
    expect(slice).toBeCloseTo(plane.count > 1 ? 4 : 0, 9);
  });

  it("take the nearest slice inside the volume", () => {
    expect(sliceOf(deep, worldOf(deep, [3, 3], 6.4))).toBe(6);
    expect(sliceOf(deep, worldOf(deep, [3, 3], 99))).toBe(19);
    expect(sliceOf(deep, worldOf(deep, [3, 3], -5))).toBe(0);
  });
});

describe("the screen", () => {
  it("shows the whole plane, whatever the shape of its pixels", () => {
    const view = fitted(deep, 400, 300);
    const [x0, y0] = toScreen(deep, view, [-0.5, -0.5]);
    const [x1, y1] = toScreen(deep, view, [deep.columns - 0.5, deep.rows - 0.5]);
    expect(Math.min(x0, y0)).toBeGreaterThanOrEqual(0);
    expect(x1).toBeLessThanOrEqual(400);
    expect(y1).toBeLessThanOrEqual(300);
    expect((x1 - x0) / (y1 - y0)).toBeCloseTo((50 * 2) / (40 * 1), 9);
    expect(x0 + x1).toBeCloseTo(400, 6);
  });

  it("keeps the point under the pointer when it zooms", () => {
    const view = fitted(flat, 500, 500);
    const before = toPixel(flat, view, [123, 217]);
    const after = toPixel(flat, zoomed(view, 2.7, [123, 217]), [123, 217]);
    expect(after[0]).toBeCloseTo(before[0], 9);
    expect(after[1]).toBeCloseTo(before[1], 9);
  });
});

describe("tiles", () => {
  it("cover the screen without gaps and end at the border of the image", () => {
    const view = { zoom: 1, x: 0.5, y: 0.5 };
    const tiles = tilesFor(flat, view, 0, 700, 300);
    expect(tiles.map((t) => [t.column, t.row])).toEqual([[0, 0], [1, 0]]);
    expect(tiles[0]!.x1).toBe(tiles[1]!.x0);
    expect(tiles[1]!.x1).toBe(699.5);
    expect(tiles[0]!.y0).toBe(-0.5);
  });

  it("are those that can be seen, no others", () => {
    const large = { ...flat, rows: 4000, columns: 4000 };
    const view = { zoom: 1, x: -1000, y: -2000 };
    const tiles = tilesFor(large, view, 0, 300, 300);
    expect(new Set(tiles.map((t) => t.column))).toEqual(new Set([1, 2]));
    expect(new Set(tiles.map((t) => t.row))).toEqual(new Set([3, 4]));
  });

  it("come from the level that fits the zoom", () => {
    const large = { ...flat, rows: 4000, columns: 4000 };
    expect(levelFor(large, { zoom: 1, x: 0, y: 0 }, 4)).toBe(0);
    expect(levelFor(large, { zoom: 0.25, x: 0, y: 0 }, 4)).toBe(2);
    expect(levelFor(large, { zoom: 0.01, x: 0, y: 0 }, 4)).toBe(3);
    expect(levelFor(large, { zoom: 0.25, x: 0, y: 0 }, 4, 2)).toBe(1);
  });
});

it("thins a stroke and keeps its ends", () => {
  const points = Array.from({ length: 100 }, (_, k) => k);
  const few = thinned(points, 9);
  expect(few).toHaveLength(9);
  expect([few[0], few[8]]).toEqual([0, 99]);
  expect(thinned([1, 2], 9)).toEqual([1, 2]);
});

describe("contrast", () => {
  it("narrows the values between black and white around their middle", () => {
    expect(rewindowed([100, 300], 0, 2)).toEqual([150, 250]);
  });

  it("moves both down for a brighter picture", () => {
    expect(rewindowed([100, 300], 0.25, 1)).toEqual([50, 250]);
  });

  it("goes back the way it came", () => {
    const [black, white] = rewindowed(rewindowed([-160, 240], 0, 1.25), 0, 0.8);
    expect(black).toBeCloseTo(-160);
    expect(white).toBeCloseTo(240);
  });
});
