/** What keys do: one table, from which the help is made, too. */

export interface Binding {
  keys: string[];
  does: string;
  group: "Prompt" | "Pairs" | "Landmarks" | "Registration" | "Looking" | "Moving";
  action: string;
}

export const BINDINGS: Binding[] = [
  { keys: ["Space"], does: "ask at the cursor", group: "Prompt", action: "ask" },
  { keys: ["Shift+Space"], does: "this place is outside the region", group: "Prompt", action: "askNot" },
  { keys: ["]"], does: "larger region", group: "Prompt", action: "larger" },
  { keys: ["["], does: "smaller region", group: "Prompt", action: "smaller" },
  { keys: ["Enter"], does: "keep the answer as a pair", group: "Prompt", action: "accept" },
  { keys: ["Escape"], does: "forget the answer", group: "Prompt", action: "dismiss" },
  { keys: ["1"], does: "tool: point", group: "Prompt", action: "tool:point" },
  { keys: ["2"], does: "tool: box", group: "Prompt", action: "tool:box" },
  { keys: ["3"], does: "tool: scribble", group: "Prompt", action: "tool:scribble" },
  { keys: ["4"], does: "tool: brush, changes the chosen pair", group: "Prompt", action: "tool:brush" },
  { keys: ["5"], does: "tool: landmark", group: "Prompt", action: "tool:landmark" },
  { keys: ["6"], does: "tool: move the image", group: "Prompt", action: "tool:move" },
  { keys: ["7"], does: "tool: contrast; drag right for more, up for brighter", group: "Prompt", action: "tool:contrast" },
  { keys: ["N"], does: "next pair", group: "Pairs", action: "next" },
  { keys: ["Shift+N"], does: "pair before", group: "Pairs", action: "previous" },
  { keys: ["A"], does: "accept the chosen pair", group: "Pairs", action: "acceptPair" },
  { keys: ["R"], does: "reject the chosen pair", group: "Pairs", action: "rejectPair" },
  { keys: ["Delete", "Backspace"], does: "delete the chosen pair or landmark", group: "Pairs", action: "delete" },
  { keys: ["Ctrl+Z"], does: "undo", group: "Pairs", action: "undo" },
  { keys: ["Ctrl+Shift+Z", "Ctrl+Y"], does: "redo", group: "Pairs", action: "redo" },
  { keys: ["L"], does: "set a landmark at the cursor", group: "Landmarks", action: "landmark" },
  { keys: ["M"], does: "next landmark", group: "Landmarks", action: "nextLandmark" },
  { keys: ["J"], does: "jump to the landmark in both images", group: "Landmarks", action: "jumpLandmark" },
  { keys: ["F"], does: "register", group: "Registration", action: "fit" },
  { keys: ["Shift+F"], does: "stop the registration", group: "Registration", action: "cancel" },
  { keys: ["V"], does: "next place that is worth a look", group: "Registration", action: "place" },
  { keys: ["E"], does: "export", group: "Registration", action: "export" },
  { keys: ["C"], does: "next comparison", group: "Looking", action: "compare" },
  { keys: ["B"], does: "before or after", group: "Looking", action: "before" },
  { keys: ["G"], does: "deformed grid", group: "Looking", action: "grid" },
  { keys: ["D"], does: "change of size (det J)", group: "Looking", action: "jacobian" },
  { keys: ["U"], does: "uncertainty", group: "Looking", action: "doubt" },
  { keys: ["H"], does: "outlines: best, all, none", group: "Looking", action: "outlines" },
  { keys: ["I"], does: "brighter", group: "Looking", action: "window:brighter" },
  { keys: ["Shift+I"], does: "darker", group: "Looking", action: "window:darker" },
  { keys: ["K"], does: "more contrast", group: "Looking", action: "window:more" },
  { keys: ["Shift+K"], does: "less contrast", group: "Looking", action: "window:less" },
  { keys: ["W"], does: "brightness and contrast as opened", group: "Looking", action: "window:reset" },
  { keys: ["X"], does: "next plane of a volume", group: "Looking", action: "plane" },
  { keys: ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"], does: "move the cursor (Shift: ten pixels)", group: "Moving", action: "arrow" },
  { keys: ["PageUp", "PageDown"], does: "slice before, next slice", group: "Moving", action: "slice" },
  { keys: ["O"], does: "the other image", group: "Moving", action: "otherPane" },
  { keys: ["+", "-"], does: "zoom", group: "Moving", action: "zoom" },
  { keys: ["0"], does: "whole image", group: "Moving", action: "whole" },
  { keys: ["?"], does: "this help", group: "Moving", action: "help" },
];

interface KeyPress {
  key: string;
  ctrlKey: boolean;
  metaKey: boolean;
  shiftKey: boolean;
  altKey: boolean;
}

/** What the table calls a key press, such as "Ctrl+Shift+Z". */
export function nameOf(press: KeyPress): string {
  const letter = press.key.length === 1 && press.key.toUpperCase() !== press.key.toLowerCase();
  const key = press.key === " " ? "Space" : letter ? press.key.toUpperCase() : press.key;
  const named = letter || press.key.length > 1 || press.key === " ";
  const shift = press.shiftKey && named && !key.startsWith("Arrow") ? "Shift+" : "";
  return `${press.ctrlKey || press.metaKey ? "Ctrl+" : ""}${shift}${key === "=" ? "+" : key}`;
}

const BY_KEY = new Map(BINDINGS.flatMap((b) => b.keys.map((key) => [key, b.action] as const)));

/** The action of a key press, or null. */
export function actionOf(press: KeyPress): string | null {
  return press.altKey ? null : (BY_KEY.get(nameOf(press)) ?? null);
}
