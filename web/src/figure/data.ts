/** What a result's figure is: plain data in plotly's shape, of the kinds that bilens makes. */

export type Cell = number | string | null;

export interface Marker {
  color?: string | readonly string[];
  size?: number | readonly number[];
  symbol?: string;
  opacity?: number;
  line?: { color?: string | readonly string[]; width?: number };
}

export interface Errors {
  array: readonly (number | null)[];
  color?: string;
  visible?: boolean;
}

export interface Trace {
  type: string;
  name?: string;
  x?: readonly Cell[];
  y?: readonly Cell[];
  z?: readonly (readonly (number | null)[])[];
  xaxis?: string;
  yaxis?: string;
  orientation?: string;
  mode?: string;
  marker?: Marker;
  line?: { color?: string; dash?: string; width?: number };
  width?: number | readonly number[];
  opacity?: number;
  error_y?: Errors;
  colorscale?: readonly (readonly [number, string])[];
  zmin?: number;
  zmax?: number;
  showscale?: boolean;
  showlegend?: boolean;
  colorbar?: { title?: { text?: string } };
  text?: readonly (readonly string[])[];
  customdata?: readonly unknown[];
  hovertemplate?: string;
  hoverinfo?: string;
}

export interface Axis {
  title?: { text?: string };
  type?: string;
  range?: readonly [number, number];
  autorange?: string | boolean;
  tickvals?: readonly number[];
  ticktext?: readonly Cell[];
  dtick?: number;
  domain?: readonly [number, number];
  overlaying?: string;
  side?: string;
  visible?: boolean;
  showgrid?: boolean;
  showticklabels?: boolean;
  zeroline?: boolean;
  ticksuffix?: string;
  tickformat?: string;
}

export interface Outline {
  type: string;
  x0: Cell;
  x1: Cell;
  y0: Cell;
  y1: Cell;
  xref?: string;
  yref?: string;
  layer?: string;
  fillcolor?: string;
  line?: { color?: string; dash?: string; width?: number };
}

export interface Note {
  text: string;
  x: Cell;
  y: Cell;
  xref?: string;
  yref?: string;
  xanchor?: string;
  yanchor?: string;
}

export interface Layout {
  title?: { text?: string; subtitle?: { text?: string } };
  height?: number;
  barmode?: string;
  bargap?: number;
  showlegend?: boolean;
  legend?: { y?: number };
  shapes?: readonly Outline[];
  annotations?: readonly Note[];
  colorway?: readonly string[];
  [axis: `${"x" | "y"}axis${string}`]: Axis | undefined;
}

export interface Figure {
  data: readonly Trace[];
  layout: Layout;
}

// As base/charts.py has them.
export const ADDS = "#0072B2";
export const TAKES = "#D55E00";
export const INK = "#757575";
export const GRID = "rgba(127,127,127,0.25)";
export const LINES = [
  ADDS,
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#6A3D9A",
  "#661100",
  "#999999",
  TAKES,
];

/** Which axes a trace is drawn on, as the layout calls them. */
export function axesOf(trace: Trace): { x: `xaxis${string}`; y: `yaxis${string}` } {
  const number = (name: string | undefined): string => (name ?? "").slice(1);
  return { x: `xaxis${number(trace.xaxis)}`, y: `yaxis${number(trace.yaxis)}` };
}

/** One of each: a value that stands for all, or a list of them. */
export function each<T extends string | number>(
  given: T | readonly T[] | undefined,
  n: number,
  otherwise: T,
): T {
  if (given === undefined) return otherwise;
  return typeof given === "object" ? (given[n] ?? otherwise) : (given as T);
}

/** Numbers among cells. */
export function finite(cells: readonly Cell[]): number[] {
  return cells.filter((cell): cell is number => typeof cell === "number" && Number.isFinite(cell));
}
