import { afterEach, describe, expect, it, vi } from "vitest";
import { Api, parseAddress, Refusal, Silence } from "../src/api";
import { nextOf } from "../src/ui";
import { number, percent } from "../src/words";

afterEach(() => vi.unstubAllGlobals());

function answering(status: number, body: unknown) {
  const fetch = vi.fn<(url: string, init: RequestInit) => Promise<Response>>(async () => new Response(JSON.stringify(body), { status }));
  vi.stubGlobal("fetch", fetch);
  return fetch;
}

describe("the server", () => {
  it("is asked with the token in a header, never in the address", async () => {
    const fetch = answering(200, { points: [[1, 2]], radius: [3], inside: [true], linked: true });
    const mapped = await new Api("secret", "pair1").map("fixed", [[1, 2]]);
    expect(mapped.radius).toEqual([3]);
    const [url, init] = fetch.mock.calls[0]!;
    expect(url).toBe("/api/sessions/pair1/map");
    expect((init.headers as Record<string, string>).authorization).toBe("Bearer secret");
  });

  it("says why it refuses", async () => {
    answering(422, { detail: "there is no pair 7" });
    await expect(new Api("t", "s").deletePair(7)).rejects.toEqual(new Refusal(422, "there is no pair 7"));
  });

  it("may not be there", async () => {
    vi.stubGlobal("fetch", async () => Promise.reject(new TypeError("failed")));
    await expect(new Api("t", "s").state()).rejects.toBeInstanceOf(Silence);
  });
});

it("reads token and session from an address", () => {
  expect(parseAddress("#token=a-b_c&session=pair1")).toEqual({ token: "a-b_c", session: "pair1" });
  expect(parseAddress("")).toEqual({ token: "", session: null });
});

it("writes numbers for people", () => {
  expect([number(0.12345), number(12345.6), number(null), number(0), percent(0.894)]).toEqual(["0.123", "12346", "–", "0", "89 %"]);
});

it("goes through a list round and round", () => {
  expect(nextOf(["a", "b", "c"], "c")).toBe("a");
  expect(nextOf(["a", "b", "c"], "a", -1)).toBe("c");
});
