// Axes: grid lines, names of ticks that do not overlap, and the line at zero.

import { h, type Shape } from "../svg";
import { type Figure, GRID, INK } from "./data";
import type { Box, Panel } from "./place";
import type { Placed, Scale, Tick } from "./scale";
import { fitted, type Measure } from "./text";
import { words } from "./words";

export interface Framed {
  readonly figure: Figure;
  readonly panel: Panel;
  readonly box: Box;
  readonly x: Placed;
  readonly y: Placed;
  readonly over: Placed | null;
  readonly named: { readonly left: boolean; readonly low: boolean };
  readonly measure: Measure;
}

const SIZE = 11; // of letters
const ROW = 12; // pixels of one line of names
const APART = { across: 100, down: 45 }; // pixels between two round ticks
const WIDEST = 0.42; // of the whole width, for names on the left
const LONGEST = 100; // pixels of a name that stands upright

/** Lines below what is drawn, and what lies above it. */
export function axisShapes(framed: Framed): { below: Shape[]; above: Shape[] } {
  const { panel, x, y, over, box } = framed;
  const below: Shape[] = [];
  const above: Shape[] = [];
  if (panel.x.axis.visible !== false) {
    if (gridded(framed, "x")) below.push(...gridLines(xTicks(x.scale, box.wide), x, "x", box));
    if (framed.named.low) below.push(...lowNames(x, box, framed.measure));
    above.push(...zeroLine(x, "x", box));
  }
  if (panel.y.axis.visible !== false) {
    if (gridded(framed, "y")) below.push(...gridLines(yTicks(y.scale, box.high), y, "y", box));
    if (framed.named.left) below.push(...leftNames(y, box, framed.measure));
    above.push(...zeroLine(y, "y", box));
  }
  if (over) below.push(...rightNames(over, box));
  return { below, above };
}

/** The room of names and title on the right, of a second axis. */
export function rightOf(panel: Panel, measure: Measure): number {
  if (!panel.over) return 0;
  return widest(yTicks(panel.over, 300), measure) + 12 + (panel.over.axis.title?.text ? 20 : 0);
}

/** The room of names on the left. */
export function leftOf(scale: Scale, high: number, width: number, measure: Measure): number {
  if (scale.axis.visible === false || scale.axis.showticklabels === false) return 0;
  return Math.min(widest(yTicks(scale, Math.max(high - 150, 60)), measure) + 8, WIDEST * width);
}

/** The room of names below. */
export function bottomOf(scale: Scale, wide: number, measure: Measure): number {
  if (scale.axis.visible === false || scale.axis.showticklabels === false) return 8;
  return laid(scale, wide, measure).high + 8;
}

/** The heading of a tile. */
export function namesOf(heading: string, box: Box, measure: Measure): Shape[] {
  if (!heading) return [];
  const look = { "text-anchor": "middle", "font-size": 12, fill: "currentColor" };
  return [
    h(
      "text",
      { x: box.x + box.wide / 2, y: box.y - 6, ...look },
      fitted(heading, box.wide + 10, 12, measure),
    ),
  ];
}

function xTicks(scale: Scale, wide: number): Tick[] {
  return scale
    .ticks(Math.max(3, Math.round(wide / APART.across)))
    .filter((tick) => inside(scale, tick));
}

function yTicks(scale: Scale, high: number): Tick[] {
  return scale
    .ticks(Math.max(2, Math.round(high / APART.down)))
    .filter((tick) => inside(scale, tick));
}

function inside(scale: Scale, { value }: Tick): boolean {
  const [low, high] = scale.low < scale.high ? [scale.low, scale.high] : [scale.high, scale.low];
  return value >= low - 1e-9 && value <= high + 1e-9;
}

function widest(ticks: readonly Tick[], measure: Measure): number {
  return Math.max(0, ...ticks.map((tick) => measure(tick.text, SIZE)));
}

/** Whether lines go with the ticks: not where bars or cells stand on them. */
function gridded({ panel }: Framed, side: "x" | "y"): boolean {
  if (panel[side].axis.showgrid !== undefined)
    return (
      panel[side].axis.showgrid === true && !panel.traces.every((trace) => trace.type === "heatmap")
    );
  return !panel.traces.some((trace) => {
    const lying = trace.orientation === "h";
    return (
      trace.type === "heatmap" ||
      (trace.type === "bar" && lying === (side === "y")) ||
      (trace.type === "box" && side === "x")
    );
  });
}

function gridLines(ticks: readonly Tick[], placed: Placed, side: "x" | "y", box: Box): Shape[] {
  const path = ticks.map(({ value }) => {
    const at = placed.pixel(value).toFixed(1);
    return side === "x"
      ? `M${at} ${box.y.toFixed(1)}v${box.high.toFixed(1)}`
      : `M${box.x.toFixed(1)} ${at}h${box.wide.toFixed(1)}`;
  });
  return [h("path", { d: path.join(""), stroke: GRID, fill: "none" })];
}

function zeroLine(placed: Placed, side: "x" | "y", box: Box): Shape[] {
  const { scale } = placed;
  if (
    scale.kind !== "linear" ||
    scale.axis.zeroline === false ||
    !inside(scale, { value: 0, text: "" })
  )
    return [];
  if (side === "y" && scale.axis.tickvals) return [];
  const at = placed.pixel(0);
  const ends =
    side === "x"
      ? { x1: at, x2: at, y1: box.y, y2: box.y + box.high }
      : { x1: box.x, x2: box.x + box.wide, y1: at, y2: at };
  return [h("line", { ...ends, stroke: INK, "stroke-width": 1 })];
}

/** Names below an axis: side by side, or slanted or upright where they would overlap. */
interface Laid {
  readonly ticks: readonly Tick[];
  readonly angle: number;
  readonly high: number;
}

function laid(scale: Scale, wide: number, measure: Measure): Laid {
  const ticks = xTicks(scale, wide);
  const placed = scale.placed(0, wide);
  const size = widest(ticks, measure);
  const apart = distance(ticks, placed);
  if (size + 6 <= apart || ticks.length < 2) return { ticks, angle: 0, high: ROW };
  if (!scale.axis.tickvals && scale.kind !== "category") {
    return { ticks: thinned(ticks, apart, size + 6), angle: 0, high: ROW };
  }
  const long = Math.min(size, LONGEST);
  if (apart >= 20) return { ticks, angle: -40, high: ROW + long * 0.64 };
  return { ticks: thinned(ticks, apart, ROW), angle: -90, high: long + 4 };
}

function distance(ticks: readonly Tick[], placed: Placed): number {
  const places = ticks.map((tick) => placed.pixel(tick.value)).sort((one, other) => one - other);
  return Math.min(
    ...places.slice(1).map((place, n) => place - (places[n] ?? place)),
    Number.POSITIVE_INFINITY,
  );
}

/** Every second, third, … tick, so that each has its room. */
function thinned(ticks: readonly Tick[], apart: number, needed: number): Tick[] {
  const every = Math.max(1, Math.ceil(needed / apart - 1e-9));
  return ticks.filter((_, n) => n % every === 0);
}

function lowNames(x: Placed, box: Box, measure: Measure): Shape[] {
  const { ticks, angle } = laid(x.scale, box.wide, measure);
  const low = box.y + box.high;
  return ticks.map(({ value, text }) => {
    const at = x.pixel(value);
    if (!angle)
      return h("text", { x: at, y: low + 15, "text-anchor": "middle", fill: "currentColor" }, text);
    const turn = `translate(${(at + 4).toFixed(1)} ${(low + 10).toFixed(1)}) rotate(${angle})`;
    return h(
      "text",
      { transform: turn, "text-anchor": "end", fill: "currentColor" },
      fitted(text, LONGEST, SIZE, measure),
    );
  });
}

function leftNames(y: Placed, box: Box, measure: Measure): Shape[] {
  const ticks = yTicks(y.scale, box.high);
  const room = leftOf(y.scale, box.high + 150, Number.POSITIVE_INFINITY, measure);
  const shown = thinned(ticks, distance(ticks, y), ROW);
  return shown.map(({ value, text }) => {
    const place = {
      x: box.x - 6,
      y: y.pixel(value) + 4,
      "text-anchor": "end",
      fill: "currentColor",
    };
    return h("text", place, fitted(text, Math.min(room, box.x - 12), SIZE, measure));
  });
}

function rightNames(over: Placed, box: Box): Shape[] {
  const right = box.x + box.wide;
  const names = yTicks(over.scale, box.high).map(({ value, text }) => {
    return h("text", { x: right + 6, y: over.pixel(value) + 4, fill: "currentColor" }, text);
  });
  const title = words(over.scale.axis.title?.text);
  if (!title) return names;
  const middle = (box.y + box.high / 2).toFixed(1);
  const turn = `translate(${(right + 58).toFixed(1)} ${middle}) rotate(90)`;
  return [
    ...names,
    h(
      "text",
      { transform: turn, "text-anchor": "middle", "font-size": 12, fill: "currentColor" },
      title,
    ),
  ];
}
