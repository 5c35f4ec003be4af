import type { TaskInfo } from "./types";

export const VERDICTS = {
  ok: "– nothing speaks against this result",
  uncertain: "– look at the places below before you use it",
  failed: "– do not use this result",
} as const;

const KINDS: Record<string, string> = {
  full: "Registering",
  refit: "Following your edit",
  export: "Exporting",
  prepare: "Getting ready",
};

export function percent(value: number): string {
  return `${Math.round(100 * value)} %`;
}

export function number(value: number | null): string {
  if (value === null || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  return Math.abs(value) >= 100 ? value.toFixed(0) : Number(value.toPrecision(3)).toString();
}

export function taskText(task: TaskInfo): string {
  return `${KINDS[task.kind] ?? task.kind}: ${task.stage}, ${task.seconds.toFixed(0)} s`;
}

/** Make a message of the server a sentence. */
export function sentence(text: string): string {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}
