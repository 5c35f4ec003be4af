import { describe, expect, it } from "vitest";
import { actionOf, BINDINGS } from "../src/keys";

const press = (key: string, more: Partial<{ ctrlKey: boolean; metaKey: boolean; shiftKey: boolean; altKey: boolean }> = {}) => ({
  key, ctrlKey: false, metaKey: false, shiftKey: false, altKey: false, ...more,
});

describe("keys", () => {
  it("have one meaning each", () => {
    const all = BINDINGS.flatMap((b) => b.keys);
    expect(new Set(all).size).toBe(all.length);
  });

  it.each([
    [press(" "), "ask"],
    [press(" ", { shiftKey: true }), "askNot"],
    [press("Enter"), "accept"],
    [press("]"), "larger"],
    [press("z", { ctrlKey: true }), "undo"],
    [press("Z", { metaKey: true, shiftKey: true }), "redo"],
    [press("n"), "next"],
    [press("N", { shiftKey: true }), "previous"],
    [press("?", { shiftKey: true }), "help"],
    [press("+", { shiftKey: true }), "zoom"],
    [press("="), "zoom"],
    [press("ArrowLeft", { shiftKey: true }), "arrow"],
    [press("k"), "window:more"],
    [press("K", { shiftKey: true }), "window:less"],
    [press("f", { ctrlKey: true }), null],
    [press("f", { altKey: true }), null],
    [press("q"), null],
  ])("%o does %s", (key, action) => {
    expect(actionOf(key)).toBe(action);
  });
});
