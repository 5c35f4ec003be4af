import type { Layer, Mapped, Outlines, ProposalInfo, SessionInfo, Side, Status, Vec } from "./types";

/** The server refused, and says why in a sentence. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** The server does not answer. */
export class Silence extends Error {}

function bytes(count: number): string {
  return count >= 1e6 ? `${Number((count / 1e6).toPrecision(3))} MB` : `${Math.ceil(count / 1e3)} kB`;
}

export interface Address {
  token: string;
  session: string | null;
}

/** Read token and session from the part of an address after the number sign. */
export function parseAddress(hash: string): Address {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  return { token: values.get("token") ?? "", session: values.get("session") };
}

export class Api {
  constructor(
    readonly token: string,
    readonly session: string,
  ) {}

  private async ask(method: string, path: string, body?: unknown, raw?: BodyInit): Promise<Response> {
    const headers: Record<string, string> = { authorization: `Bearer ${this.token}` };
    const init: RequestInit = { method, headers, cache: "no-store" };
    if (raw !== undefined) init.body = raw;
    else if (body !== undefined) {
      headers["content-type"] = "application/json";
      init.body = JSON.stringify(body);
    }
    let response: Response;
    try {
      response = await fetch(`/api${path}`, init);
    } catch {
      throw new Silence("the server does not answer");
    }
    if (!response.ok) {
      const content = (await response.json().catch(() => null)) as { detail?: unknown } | null;
      const detail = content?.detail;
      throw new Refusal(response.status, typeof detail === "string" ? detail : `refused (${response.status})`);
    }
    return response;
  }

  private async json<T>(method: string, path: string, body?: unknown): Promise<T> {
    const response = await this.ask(method, path, body);
    return (response.status === 204 ? undefined : await response.json()) as T;
  }

  private at(path: string): string {
    return `/sessions/${encodeURIComponent(this.session)}${path}`;
  }

  sessions(): Promise<{ name: string; fixed: string; moving: string }[]> {
    return this.json("GET", "/sessions");
  }

  open(body: { fixed?: string; moving?: string; result?: string }): Promise<SessionInfo> {
    return this.json("POST", "/sessions", body);
  }

  /** Store a file on the server; one that is too large is not sent at all, for a refusal half-way is not readable. */
  async upload(name: string, file: Blob): Promise<string> {
    const { largest_upload: most } = await this.json<{ largest_upload: number }>("GET", "/about");
    if (file.size > most) {
      throw new Refusal(413, `${name} has ${bytes(file.size)}, and at most ${bytes(most)} are taken; open large files with \`roireg view\` instead`);
    }
    const response = await this.ask("PUT", `/uploads/${encodeURIComponent(name)}`, undefined, file);
    return ((await response.json()) as { place: string }).place;
  }

  state(): Promise<SessionInfo> {
    return this.json("GET", this.at(""));
  }

  news(since: number): Promise<SessionInfo> {
    return this.json("GET", this.at(`/news?since=${since}`));
  }

  async tile(layer: Layer, plane: string, place: Vec, window?: Vec): Promise<ImageBitmap> {
    const query = window ? `?low=${window[0]}&high=${window[1]}` : "";
    const response = await this.ask("GET", this.at(`/tiles/${layer}/${plane}/${place.join("/")}${query}`));
    return createImageBitmap(await response.blob());
  }

  outlines(side: Side, plane: string, index: number): Promise<Outlines> {
    return this.json("GET", this.at(`/outlines/${side}/${plane}/${index}`));
  }

  async grid(plane: string, index: number): Promise<[number, number][][]> {
    return (await this.json<{ lines: [number, number][][] }>("GET", this.at(`/grid/${plane}/${index}`))).lines;
  }

  map(side: Side, points: Vec[]): Promise<Mapped> {
    return this.json("POST", this.at("/map"), { side, points });
  }

  prompt(side: Side, points: Vec[], labels: number[], box: Vec[] | null): Promise<ProposalInfo> {
    return this.json("POST", this.at("/prompt"), { side, points, labels, box });
  }

  scale(step: 1 | -1): Promise<ProposalInfo> {
    return this.json("POST", this.at("/prompt/scale"), { step });
  }

  accept(): Promise<{ id: number }> {
    return this.json("POST", this.at("/prompt/accept"));
  }

  dismiss(): Promise<void> {
    return this.json("DELETE", this.at("/prompt"));
  }

  changePair(id: number, change: { status?: Status; name?: string }): Promise<SessionInfo> {
    return this.json("PATCH", this.at(`/pairs/${id}`), change);
  }

  deletePair(id: number): Promise<void> {
    return this.json("DELETE", this.at(`/pairs/${id}`));
  }

  brush(id: number, side: Side, points: Vec[], radius: number, erase: boolean): Promise<SessionInfo> {
    return this.json("POST", this.at(`/pairs/${id}/brush`), { side, points, radius, erase });
  }

  labels(fixed: string, moving: string): Promise<{ count: number }> {
    return this.json("POST", this.at("/labels"), { fixed, moving });
  }

  undo(): Promise<{ undone: string | null }> {
    return this.json("POST", this.at("/undo"));
  }

  redo(): Promise<{ done: string | null }> {
    return this.json("POST", this.at("/redo"));
  }

  landmark(side: Side, point: Vec, id?: number): Promise<{ id: number }> {
    return this.json("POST", this.at("/landmarks"), id === undefined ? { side, point } : { side, point, id });
  }

  deleteLandmark(id: number): Promise<void> {
    return this.json("DELETE", this.at(`/landmarks/${id}`));
  }

  async landmarkFile(side: Side, kind: "csv" | "mrk.json"): Promise<Blob> {
    return (await this.ask("GET", this.at(`/landmarks/${side}.${kind}`))).blob();
  }

  fit(kind: "full" | "refit"): Promise<unknown> {
    return this.json("POST", this.at("/fit"), { kind });
  }

  cancel(): Promise<void> {
    return this.json("DELETE", this.at("/fit"));
  }

  live(live: boolean): Promise<unknown> {
    return this.json("PUT", this.at("/live"), { live });
  }

  export(folder: string | null): Promise<unknown> {
    return this.json("POST", this.at("/export"), { folder });
  }
}
