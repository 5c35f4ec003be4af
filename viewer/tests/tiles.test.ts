import { describe, expect, it } from "vitest";
import type { Api } from "../src/api";
import { Tiles } from "../src/tiles";

const tile = { level: 0, column: 0, row: 0, x0: 0, y0: 0, x1: 1, y1: 1 };

describe("tiles", () => {
  it("show the picture with the contrast before until the new one is there", async () => {
    const waiting: ((picture: ImageBitmap) => void)[] = [];
    const api = { tile: () => new Promise<ImageBitmap>((resolve) => waiting.push(resolve)) } as unknown as Api;
    const tiles = new Tiles(api, () => undefined);
    const get = (window?: [number, number], slice = 3) => tiles.get("fixed", 0, "Axial", slice, tile, window);
    const picture = () => ({ close: () => undefined }) as ImageBitmap;
    const [first, second] = [picture(), picture()];
    expect(get()).toBeNull();
    waiting[0]!(first);
    await expect.poll(() => get()).toBe(first);
    expect(get([0, 50])).toBe(first);
    expect(get([0, 50], 4)).toBeNull();
    waiting[1]!(second);
    await expect.poll(() => get([0, 50])).toBe(second);
    expect(get()).toBe(first);
  });
});
