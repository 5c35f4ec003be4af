/** What the server sends; see /openapi.json. World points are (x, y[, z]) in mm, or pixels for pictures. */

export type Side = "fixed" | "moving";
export type Layer = "fixed" | "moving" | "warped" | "before" | "jacobian" | "doubt";
export type Status = "proposed" | "accepted" | "rejected";
export type Vec = readonly number[];

export interface PlaneInfo {
  name: string;
  rows: number;
  columns: number;
  count: number;
  /** (d, 4): from (column, row, slice, 1) to the world. */
  world: number[][];
  /** Size of a pixel in world units, across and down. */
  size: [number, number];
  letters: { left: string; right: string; top: string; bottom: string };
  unit: string;
}

export interface SideInfo {
  title: string;
  channels: number;
  unit: string;
  window: [number, number];
  range: [number, number];
  levels: number;
  planes: PlaneInfo[];
}

export interface RegionInfo {
  centroid: number[];
  size: number;
}

export interface PairInfo {
  id: number;
  status: Status;
  source: string;
  name: string | null;
  confidence: number;
  similarity: number;
  edited: boolean;
  colour: string;
  fixed: RegionInfo;
  moving: RegionInfo;
}

export interface PromptInfo {
  points: number[][];
  labels: number[];
  box: number[][] | null;
}

export interface ProposalInfo {
  side: Side;
  prompt: PromptInfo;
  found: PromptInfo | null;
  scale: number | null;
  scales: number;
  confidence: number;
  reason: string;
  notes: string[];
  own: RegionInfo | null;
  other: RegionInfo | null;
}

export interface LandmarkInfo {
  id: number;
  name: string;
  fixed: number[] | null;
  moving: number[] | null;
  error: number | null;
}

export interface TaskInfo {
  kind: string;
  state: "running" | "done" | "stopped" | "failed";
  stage: string;
  fraction: number;
  seconds: number;
  error: string;
}

export interface PlaceInfo {
  point: number[];
  what: string;
  topics: string[];
}

export interface MetricInfo {
  value: number | null;
  before: number | null;
  label: string;
  unit: string;
  better: string;
}

export interface FitInfo {
  kind: "guide" | "refit" | "full" | "stored";
  verdict: "ok" | "uncertain" | "failed";
  reasons: string[];
  metrics: Record<string, MetricInfo>;
  seconds: number;
  current: boolean;
  places: PlaceInfo[];
}

export interface FittingInfo {
  version: number;
  live: boolean;
  note: string;
  task: TaskInfo | null;
  fit: FitInfo | null;
}

export interface SessionInfo {
  name: string;
  version: number;
  marks: number;
  closed: boolean;
  note: string;
  dimension: 2 | 3;
  unit: string;
  sides: Record<Side, SideInfo>;
  ready: boolean;
  linked: boolean;
  preparing: TaskInfo | null;
  pairs: PairInfo[];
  proposal: ProposalInfo | null;
  landmarks: LandmarkInfo[];
  undo: string | null;
  redo: string | null;
  fitting: FittingInfo;
  out: string;
}

export type Line = [number, number][];

export interface Outlines {
  version: number;
  pairs: { id: number; lines: Line[] }[];
  proposal: Line[] | null;
}

export interface Mapped {
  points: number[][];
  radius: number[];
  inside: boolean[];
  linked: boolean;
}

export function otherSide(side: Side): Side {
  return side === "fixed" ? "moving" : "fixed";
}
