import type { Api } from "./api";
import type { TilePlace } from "./geometry";
import type { Layer } from "./types";

const KEPT = 220;
const AT_ONCE = 6;

/** Pictures of tiles: asked for once, the last ones used are kept. */
export class Tiles {
  private readonly kept = new Map<string, ImageBitmap | null>();
  private readonly waiting = new Map<string, () => Promise<ImageBitmap>>();
  private running = 0;

  constructor(
    private readonly api: Api,
    private readonly arrived: () => void,
  ) {}

  get size(): number {
    return this.kept.size;
  }

  /** The picture, or null while it is on its way. */
  get(layer: Layer, version: number, plane: string, slice: number, tile: TilePlace, window?: [number, number]): ImageBitmap | null {
    const place = [slice, tile.level, tile.column, tile.row];
    const key = `${layer}/${version}/${plane}/${place.join("/")}/${window?.join(",") ?? ""}`;
    const known = this.kept.get(key);
    if (known !== undefined) {
      this.kept.delete(key);
      this.kept.set(key, known);
      return known;
    }
    if (!this.waiting.has(key)) {
      this.waiting.set(key, () => this.api.tile(layer, plane, place, window));
      // What was asked for long ago and never begun is no longer looked at.
      for (const old of [...this.waiting.keys()].slice(0, Math.max(0, this.waiting.size - 40))) this.waiting.delete(old);
      this.pump();
    }
    return null;
  }

  private pump(): void {
    while (this.running < AT_ONCE && this.waiting.size) {
      // The latest wish first: it is what is on the screen.
      const key = [...this.waiting.keys()].pop()!;
      const load = this.waiting.get(key)!;
      this.waiting.delete(key);
      this.running++;
      this.kept.set(key, null);
      load()
        .then((picture) => this.keep(key, picture))
        .catch(() => window.setTimeout(() => this.kept.delete(key), 1500))
        .finally(() => {
          this.running--;
          this.arrived();
          this.pump();
        });
    }
  }

  private keep(key: string, picture: ImageBitmap): void {
    this.kept.set(key, picture);
    for (const [old, value] of this.kept) {
      if (this.kept.size <= KEPT) break;
      value?.close();
      this.kept.delete(old);
    }
  }
}
