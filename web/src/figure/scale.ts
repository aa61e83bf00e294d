// Axes: what they hold, where a value stands on them in pixels, and their ticks.

import { ticks, tickStep } from "d3-array";
import { powerOfTen, tickTexts } from "./numbers";
import { type Axis, axesOf, type Cell, type Errors, type Figure, finite, type Trace } from "./data";
import { words } from "./words";

export type Side = "x" | "y";
export type Kind = "linear" | "log" | "category";

export interface Tick {
  readonly value: number; // as the scale counts: a logarithm, a category's number
  readonly text: string;
}

const AIR = 0.05; // left free beyond the last value, as a share of all
const HALF = 0.5; // of a category, or of a cell

/** An axis before it has a place on the page. */
export class Scale {
  constructor(
    readonly axis: Axis,
    readonly kind: Kind,
    readonly names: readonly string[],
    readonly low: number,
    readonly high: number,
    readonly whole: boolean, // whether all on it are whole numbers
  ) {}

  /** Where a cell stands, as the scale counts: itself, its logarithm, its category's number. */
  count(cell: Cell | undefined): number {
    if (cell === null || cell === undefined) return Number.NaN;
    if (this.kind === "category")
      return typeof cell === "number" && !this.names.includes(String(cell))
        ? cell
        : this.names.indexOf(String(cell));
    return this.kind === "log" ? Math.log10(Number(cell)) : Number(cell);
  }

  /** From cells to pixels between `from` and `to`. */
  placed(from: number, to: number): Placed {
    return new Placed(this, from, to);
  }

  /** Ticks: those that are asked for, or about `most` round ones. */
  ticks(most: number): Tick[] {
    const { tickvals, ticktext } = this.axis;
    if (tickvals) {
      const texts =
        ticktext ?? tickvals.map((value) => (this.kind === "log" ? asked(value) : value));
      return tickvals.map((value, n) => ({ value: this.count(value), text: words(texts[n]) }));
    }
    if (this.kind === "category")
      return this.names.map((text, value) => ({ value, text: words(text) }));
    if (this.kind === "log") return logTicks(this.low, this.high, most);
    return linearTicks(this.low, this.high, most, this.step(most));
  }

  /** How far apart ticks are asked to be: no halves between whole numbers. */
  private step(most: number): number {
    const halves = this.whole && tickStep(this.low, this.high, most) < 1;
    return this.axis.dtick ?? (halves ? 1 : 0);
  }
}

/** An axis on the page. */
export class Placed {
  constructor(
    readonly scale: Scale,
    readonly from: number,
    readonly to: number,
  ) {}

  /** The pixel of a cell. */
  at(cell: Cell | undefined): number {
    return this.pixel(this.scale.count(cell));
  }

  /** The pixel of what the scale counts. */
  pixel(value: number): number {
    const { low, high } = this.scale;
    return this.from + ((value - low) / (high - low)) * (this.to - this.from);
  }

  /** Pixels of one unit. */
  get unit(): number {
    return Math.abs((this.to - this.from) / (this.scale.high - this.scale.low));
  }
}

/** The axis `name` of `figure`, as far as the traces on it go. */
export function scaleOf(figure: Figure, name: `${Side}axis${string}`): Scale {
  const side = name[0] as Side;
  const axis = figure.layout[name] ?? {};
  const traces = figure.data.filter((trace) => axesOf(trace)[side] === name);
  const names = categories(axis, traces, side);
  const kind = axis.type === "log" ? "log" : names ? "category" : "linear";
  const all = side === "x" && wholeNumbers(traces);
  const counting = new Scale(axis, kind, names ?? [], 0, 1, all);
  const [low, high] = axis.range ?? extent(counting, traces, side, figure);
  const [first, last] = axis.autorange === "reversed" && !axis.range ? [high, low] : [low, high];
  return new Scale(axis, kind, names ?? [], first, last, all);
}

/** The places of a trace's bars, cells or points along its axis. */
export function placesOf(trace: Trace, side: Side): readonly Cell[] {
  const given = trace[side];
  if (given) return given;
  if (trace.type === "box") return (trace.y ?? []).map(() => trace.name ?? "");
  const other = trace[side === "x" ? "y" : "x"];
  const count =
    side === "x" ? (trace.z?.[0]?.length ?? other?.length ?? 0) : (trace.z?.length ?? 0);
  return Array.from({ length: count }, (_, n) => n);
}

/** Along which side the bars stand beside one another. */
export function along(trace: Trace): Side {
  return trace.orientation === "h" ? "y" : "x";
}

/** What bars stand on and reach to, one after another, stacked where the layout says. */
export function stacks(figure: Figure, traces: readonly Trace[]): Map<Trace, [number, number][]> {
  const stacked = figure.layout.barmode === "stack" || figure.layout.barmode === "relative";
  const ends = new Map<string, number>();
  const found = new Map<Trace, [number, number][]>();
  for (const trace of traces.filter((one) => one.type === "bar")) {
    const side = along(trace);
    const places = placesOf(trace, side);
    const sizes = trace[side === "x" ? "y" : "x"] ?? [];
    found.set(
      trace,
      sizes.map((size, n) => {
        const value = Number(size ?? 0);
        const key = `${String(places[n])} ${value < 0 ? "-" : "+"}`;
        const base = stacked ? (ends.get(key) ?? 0) : 0;
        ends.set(key, base + value);
        return [base, base + value];
      }),
    );
  }
  return found;
}

/** The smallest distance between two bars, which is the room of one. */
export function step(scale: Scale, traces: readonly Trace[], side: Side): number {
  const counts = traces.flatMap((trace) => placesOf(trace, side).map((cell) => scale.count(cell)));
  const sorted = [...new Set(counts)].sort((one, other) => one - other);
  const steps = sorted.slice(1).map((value, n) => value - (sorted[n] ?? value));
  return Math.min(...steps.filter((size) => size > 0), 1);
}

function wholeNumbers(traces: readonly Trace[]): boolean {
  return traces.every(
    (trace) => trace.type !== "box" && placesOf(trace, "x").every((cell) => Number.isInteger(cell)),
  );
}

function categories(axis: Axis, traces: readonly Trace[], side: Side): string[] | null {
  const cells = traces.flatMap((trace) =>
    side === "y" && trace.type === "box" ? [] : [...placesOf(trace, side)],
  );
  const named = axis.type === "category" || cells.some((cell) => typeof cell === "string");
  if (!named || axis.type === "log") return null;
  return [...new Set(cells.filter((cell) => cell !== null).map(String))];
}

function extent(
  scale: Scale,
  traces: readonly Trace[],
  side: Side,
  figure: Figure,
): [number, number] {
  const exact: number[] = []; // ends that need no room beyond them
  const airy: number[] = [];
  const bars = traces.filter((trace) => trace.type === "bar");
  const ends = stacks(figure, bars);
  for (const trace of traces) {
    const counts = finite(placesOf(trace, side).map((cell) => scale.count(cell)));
    if (trace.type === "heatmap" || (trace.type === "box" && side === "x"))
      exact.push(...around(counts, HALF));
    else if (trace.type === "bar" && along(trace) === side)
      exact.push(...around(counts, room(trace, scale, bars, side)));
    else if (trace.type === "bar") reach(scale, ends.get(trace) ?? [], trace.error_y, exact, airy);
    else if (side === "x" && !trace.mode?.includes("markers")) exact.push(...counts);
    else airy.push(...counts, ...(side === "y" ? beyond(scale, trace) : []));
  }
  return spread(exact, airy, scale.kind);
}

/** How far a bar goes to each side of its place. */
function room(trace: Trace, scale: Scale, bars: readonly Trace[], side: Side): number {
  const own = typeof trace.width === "number" ? trace.width : trace.width?.[0];
  return (own ?? step(scale, bars, side)) / 2;
}

function reach(
  scale: Scale,
  ends: readonly [number, number][],
  errors: Errors | undefined,
  exact: number[],
  airy: number[],
): void {
  if (scale.kind !== "log") exact.push(0);
  ends.forEach(([, end], n) => {
    const error = errors?.array[n] ?? 0;
    airy.push(...finite([end, end + error, end - error].map((value) => scale.count(value))));
  });
}

/** Where the error bars of points end. */
function beyond(scale: Scale, trace: Trace): number[] {
  const errors = trace.error_y?.visible === false ? undefined : trace.error_y?.array;
  if (!errors) return [];
  const ends = (trace.y ?? []).flatMap((cell, n) => {
    const value = Number(cell);
    return [value - (errors[n] ?? 0), value + (errors[n] ?? 0)];
  });
  return finite(ends.map((end) => scale.count(end)));
}

function around(counts: readonly number[], half: number): number[] {
  return counts.length ? [least(counts) - half, most(counts) + half] : [];
}

function spread(exact: readonly number[], airy: readonly number[], kind: Kind): [number, number] {
  const all = [...exact, ...airy];
  if (!all.length) return kind === "category" ? [-HALF, HALF] : [0, 1];
  let [low, high] = [least(all), most(all)];
  if (low === high)
    return kind === "linear" && low
      ? [low - Math.abs(low) / 2, high + Math.abs(high) / 2]
      : [low - 1, high + 1];
  const air = AIR * (high - low);
  const fixed = [least(exact), most(exact)];
  if (airy.length && low !== fixed[0]) low -= air;
  if (airy.length && high !== fixed[1]) high += air;
  return [low, high];
}

function least(values: readonly number[]): number {
  return values.reduce((one, other) => Math.min(one, other), Number.POSITIVE_INFINITY);
}

function most(values: readonly number[]): number {
  return values.reduce((one, other) => Math.max(one, other), Number.NEGATIVE_INFINITY);
}

function linearTicks(low: number, high: number, count: number, dtick = 0): Tick[] {
  const [first, last] = low < high ? [low, high] : [high, low];
  const asked = dtick && (last - first) / dtick <= 2 * count ? dtick : 0;
  const values = asked ? multiples(first, last, asked) : ticks(first, last, count);
  const texts = tickTexts(values, asked || tickStep(first, last, count));
  return values.map((value, n) => ({ value, text: texts[n] ?? "" }));
}

function multiples(low: number, high: number, size: number): number[] {
  const first = Math.ceil(low / size - 1e-9);
  const count = Math.floor(high / size + 1e-9) - first + 1;
  return Array.from({ length: Math.max(count, 0) }, (_, n) => (first + n) * size);
}

/** Powers of ten; between few of them also 2 and 5 times these; within one, round numbers. */
function logTicks(low: number, high: number, most: number): Tick[] {
  const [first, last] = low < high ? [low, high] : [high, low];
  if (last - first < 0.7) {
    const round = linearTicks(10 ** first, 10 ** last, most);
    return round
      .filter(({ value }) => value > 0)
      .map(({ value, text }) => ({ value: Math.log10(value), text }));
  }
  if (last - first > 2) {
    const powers = multiples(first, last, Math.max(1, Math.ceil((last - first) / most)));
    return powers.map((value) => ({ value, text: powerOfTen(value) }));
  }
  const digits = last - first > 1.3 ? [1, 2, 5] : [1, 2, 3, 4, 5, 7];
  return multiples(Math.floor(first), Math.ceil(last), 1)
    .flatMap((power) => digits.map((digit) => digit * 10 ** power))
    .map((value) => ({ value: Math.log10(value), text: asked(value) }))
    .filter(({ value }) => value >= first - 1e-9 && value <= last + 1e-9);
}

/** One number by itself on an axis. */
function asked(value: number): string {
  const exponent = Math.log10(value);
  if (Number.isInteger(Math.round(exponent * 1e9) / 1e9)) return powerOfTen(Math.round(exponent));
  return tickTexts([value], 10 ** Math.floor(exponent))[0] ?? "";
}

/** Round ends beyond the lowest and highest value of a strip of colours. */
export function colourTicks(low: number, high: number): Tick[] {
  return linearTicks(low, high, 5);
}
