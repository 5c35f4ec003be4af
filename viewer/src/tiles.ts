import type { Api } from "./api";
import type { TilePlace } from "./geometry";
import type { Layer } from "./types";

const KEPT = 220;
const AT_ONCE = 6;

/** Pictures of tiles: asked for once, the last ones used are kept. */
export class Tiles {
  private readonly kept = new Map<string, ImageBitmap | null>();
  /** By place, whatever the window: the key of the picture that arrived last. */
  private readonly latest = new Map<string, string>();
  private readonly waiting = new Map<string, () => Promise<ImageBitmap>>();
  private running = 0;

  constructor(
    private readonly api: Api,
    private readonly arrived: () => void,
  ) {}

  /** Whether everything that was asked for is there. */
  get complete(): boolean {
    return this.kept.size > 0 && !this.running && !this.waiting.size;
  }

  /** The picture; while it is on its way the one with the window before, or null. */
  get(layer: Layer, version: number, plane: string, slice: number, tile: TilePlace, window?: [number, number]): ImageBitmap | null {
    const numbers = [slice, tile.level, tile.column, tile.row];
    const place = `${layer}/${version}/${plane}/${numbers.join("/")}`;
    const key = `${place}/${window?.join(",") ?? ""}`;
    const known = this.kept.get(key);
    if (known) {
      this.kept.delete(key);
      this.kept.set(key, known);
      return known;
    }
    if (known === undefined && !this.waiting.has(key)) {
      this.waiting.set(key, async () => {
        const picture = await this.api.tile(layer, plane, numbers, window);
        this.latest.set(place, key);
        return picture;
      });
      // What was asked for long ago and never begun is no longer looked at.
      for (const old of [...this.waiting.keys()].slice(0, Math.max(0, this.waiting.size - 40))) this.waiting.delete(old);
      this.pump();
    }
    return this.kept.get(this.latest.get(place) ?? "") ?? null;
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
