// Where the parts of a figure stand, and what they are drawn with.

import type { Trace } from "./data";
import type { Scale } from "./scale";
import type { Measure } from "./text";

export interface Room {
  readonly width: number;
  readonly height: number; // where the layout says none
  readonly measure: Measure;
  readonly paint: Paint;
}

/** Makes an image of so many cells, as an address: none where there is no canvas. */
export type Paint = (
  rows: number,
  columns: number,
  fill: (pixels: Uint8ClampedArray) => void,
) => string | null;

/** One pair of axes, and perhaps a second vertical one, before it has a place. */
export interface Panel {
  readonly x: Scale;
  readonly y: Scale;
  readonly over: Scale | null;
  readonly overName: string;
  readonly traces: readonly Trace[];
  readonly heading: string;
  readonly tile: { readonly wide: number; readonly high: number } | null; // as shares of the whole
}

export interface Box {
  readonly x: number;
  readonly y: number;
  readonly wide: number;
  readonly high: number;
}
