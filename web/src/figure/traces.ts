// The kinds of traces, each as shapes and what can be pointed at.

import { quantileSorted } from "d3-array";
import { h, type Shape } from "../svg";
import { colouring, hex, inkOn } from "./colours";
import { type Cell, each, type Figure, finite, GRID, INK, LINES, type Trace } from "./data";
import type { Box, Paint } from "./place";
import { along, type Placed, placesOf, stacks, step } from "./scale";
import { fitted, type Measure } from "./text";
import { said, words } from "./words";
import { Cells, Marks, type Spot, type Zone } from "./zones";

export interface Drawn {
  readonly shapes: readonly Shape[];
  readonly zones: readonly Zone[];
}

/** Where a trace is drawn. */
export interface Ground {
  readonly figure: Figure;
  readonly beside: readonly Trace[]; // all traces on the same axes
  readonly x: Placed;
  readonly y: Placed;
  readonly measure: Measure;
  readonly paint: Paint;
}

const FRAMED = 1000; // cells, up to which each has a frame
const MANY = 5000; // cells, above which a heat map is one image
const DASHES: Readonly<Record<string, string>> = { dash: "7 5", dot: "2 4", dashdot: "7 4 2 4" };
const EDGE = "#444444"; // of a marker that has one and says no colour
const BAR = 0.25; // of a place, left free between bars

export const KINDS: Readonly<Record<string, (trace: Trace, n: number, ground: Ground) => Drawn>> = {
  bar,
  scatter,
  heatmap,
  box,
};

/** Strokes as plotly names them. */
export function dashed(dash: string | undefined): { "stroke-dasharray"?: string } {
  const pattern = DASHES[dash ?? ""];
  return pattern ? { "stroke-dasharray": pattern } : {};
}

/** The colour of the n-th trace where it says none itself. */
export function colourOf(trace: Trace, n: number, figure: Figure): string {
  const way = figure.layout.colorway ?? LINES;
  const own = trace.line?.color ?? trace.marker?.color;
  return (typeof own === "string" ? own : own?.[0]) ?? way[n % way.length] ?? INK;
}

function bar(trace: Trace, n: number, ground: Ground): Drawn {
  const { figure, x, y } = ground;
  const side = along(trace);
  const [place, value] = side === "x" ? [x, y] : [y, x];
  const ends = stacks(figure, ground.beside).get(trace) ?? [];
  const places = placesOf(trace, side);
  const { wide, shift } = lane(trace, ground, place);
  const floor = value.scale.kind === "log" ? value.from : value.at(0);
  const spots: Spot[] = [];
  const shapes: Shape[] = [];
  ends.forEach(([base, end], m) => {
    const to = value.at(end);
    const from = base === 0 ? floor : value.at(base);
    const middle = place.at(places[m]) + shift * wide;
    const width = barWidth(trace, m, place) ?? wide;
    if (!Number.isFinite(middle)) return;
    const [start, length] = within(from, Number.isFinite(to) ? to : from, value);
    const box =
      side === "x"
        ? { x: middle - width / 2, y: start, wide: width, high: length }
        : { x: start, y: middle - width / 2, wide: length, high: width };
    const fill = each(trace.marker?.color, m, colourOf(trace, n, figure));
    shapes.push(rectangle(box, { fill, ...faded(trace.opacity ?? trace.marker?.opacity) }));
    spots.push({ ...box, trace: n, at: [m], lines: lines(trace, m) });
  });
  return {
    shapes: [...shapes, ...errorBars(trace, colourOf(trace, n, figure), ground)],
    zones: [new Marks(spots, side === "y")],
  };
}

/** From where, and how far, a bar is seen of what its axis shows. */
function within(from: number, to: number, axis: Placed): [start: number, length: number] {
  const [low, high] = [Math.min(axis.from, axis.to), Math.max(axis.from, axis.to)];
  const [one, other] = [from, to].map((end) => Math.max(low, Math.min(end, high)));
  return [Math.min(one ?? from, other ?? to), Math.abs((other ?? to) - (one ?? from))];
}

/** How wide the bars of a trace are in pixels, and by how many of these they stand aside. */
function lane(
  trace: Trace,
  { figure, beside }: Ground,
  place: Placed,
): { wide: number; shift: number } {
  const bars = beside.filter((one) => one.type === "bar");
  const whole =
    step(place.scale, bars, along(trace)) * place.unit * (1 - (figure.layout.bargap ?? BAR));
  const grouped = ["group", undefined].includes(figure.layout.barmode) && bars.length > 1;
  if (!grouped) return { wide: whole, shift: 0 };
  return { wide: whole / bars.length, shift: bars.indexOf(trace) - (bars.length - 1) / 2 };
}

function barWidth(trace: Trace, m: number, place: Placed): number | null {
  return trace.width === undefined ? null : each(trace.width, m, 1) * place.unit;
}

function scatter(trace: Trace, n: number, ground: Ground): Drawn {
  const colour = colourOf(trace, n, ground.figure);
  const places = placesOf(trace, "x");
  const points = (trace.y ?? []).map((cell, m) => {
    return { x: ground.x.at(places[m]), y: ground.y.at(cell), m };
  });
  const seen = points.filter((point) => Number.isFinite(point.x) && Number.isFinite(point.y));
  const mode = trace.mode ?? "lines+markers";
  const shapes: Shape[] = [];
  if (mode.includes("lines")) shapes.push(line(trace, points, colour));
  shapes.push(...errorBars(trace, colour, ground));
  if (mode.includes("markers")) shapes.push(...seen.map((point) => marker(trace, point, colour)));
  if (trace.hoverinfo === "skip") return { shapes, zones: [] };
  const spots = seen.map(({ x, y, m }) => {
    const size = each(trace.marker?.size, m, 6);
    const box = { x: x - size / 2, y: y - size / 2, wide: size, high: size };
    return { ...box, trace: n, at: [m], lines: lines(trace, m) };
  });
  return { shapes, zones: [new Marks(spots, false)] };
}

/** A line that breaks where a value is missing. */
function line(trace: Trace, points: readonly { x: number; y: number }[], colour: string): Shape {
  let path = "";
  let pen = "M";
  for (const { x, y } of points) {
    const seen = Number.isFinite(x) && Number.isFinite(y);
    if (seen) path += `${pen}${x.toFixed(2)} ${y.toFixed(2)}`;
    pen = seen ? "L" : "M";
  }
  const width = trace.line?.width ?? 2;
  const stroke = {
    stroke: trace.line?.color ?? colour,
    "stroke-width": width,
    ...dashed(trace.line?.dash),
  };
  return h("path", {
    d: path,
    fill: "none",
    "stroke-linejoin": "round",
    ...stroke,
    ...faded(trace.opacity),
  });
}

/** One point by its symbol. */
export function marker(
  trace: Trace,
  { x, y, m }: { x: number; y: number; m: number },
  colour: string,
): Shape {
  const { symbol = "circle", line: edge, opacity } = trace.marker ?? {};
  const half = each(trace.marker?.size, m, 6) / 2;
  const own = each(trace.marker?.color, m, colour);
  const ends = symbol.startsWith("line-ew")
    ? [half, 0]
    : symbol.startsWith("line-ns")
      ? [0, half]
      : null;
  const faint = faded(trace.opacity ?? opacity);
  if (ends) {
    const [wide = 0, high = 0] = ends;
    const stroke = { stroke: own, "stroke-width": edge?.width ?? 1.5 };
    return h("line", {
      x1: x - wide,
      x2: x + wide,
      y1: y - high,
      y2: y + high,
      ...stroke,
      ...faint,
    });
  }
  const hollow = symbol.endsWith("-open");
  const stroke = hollow
    ? { stroke: own, "stroke-width": edge?.width ?? 1.5 }
    : { stroke: each(edge?.color, m, edge ? EDGE : own), "stroke-width": edge?.width ?? 0 };
  const look = { fill: hollow ? "none" : own, ...stroke, ...faint };
  return shaped(symbol.replace("-open", ""), x, y, half, look);
}

function shaped(
  symbol: string,
  x: number,
  y: number,
  half: number,
  look: Record<string, string | number>,
): Shape {
  const corners: Readonly<Record<string, readonly (readonly [number, number])[]>> = {
    diamond: [
      [0, -1.3],
      [1.3, 0],
      [0, 1.3],
      [-1.3, 0],
    ],
    square: [
      [-1, -1],
      [1, -1],
      [1, 1],
      [-1, 1],
    ],
    "triangle-up": [
      [0, -1.2],
      [1.15, 0.8],
      [-1.15, 0.8],
    ],
    "triangle-down": [
      [0, 1.2],
      [1.15, -0.8],
      [-1.15, -0.8],
    ],
    cross: [
      [-0.4, -1],
      [0.4, -1],
      [0.4, -0.4],
      [1, -0.4],
      [1, 0.4],
      [0.4, 0.4],
      [0.4, 1],
      [-0.4, 1],
      [-0.4, 0.4],
      [-1, 0.4],
      [-1, -0.4],
      [-0.4, -0.4],
    ],
    x: [
      [0, 0.45],
      [0.65, 1.1],
      [1.1, 0.65],
      [0.45, 0],
      [1.1, -0.65],
      [0.65, -1.1],
      [0, -0.45],
      [-0.65, -1.1],
      [-1.1, -0.65],
      [-0.45, 0],
      [-1.1, 0.65],
      [-0.65, 1.1],
    ],
  };
  const found = corners[symbol];
  if (!found) return h("circle", { cx: x, cy: y, r: half, ...look });
  const points = found.map(
    ([right, down]) => `${(x + right * half).toFixed(2)},${(y + down * half).toFixed(2)}`,
  );
  return h("polygon", { points: points.join(" "), ...look });
}

function errorBars(trace: Trace, colour: string, { x, y }: Ground): Shape[] {
  const errors = trace.error_y;
  if (!errors || errors.visible === false) return [];
  const places = placesOf(trace, "x");
  return (trace.y ?? []).flatMap((cell, n) => {
    const error = errors.array[n];
    const place = x.at(places[n]);
    if (!error || cell === null || !Number.isFinite(place)) return [];
    const top = y.at(Number(cell) + error);
    const low = y.at(Number(cell) - error);
    const bottom = Number.isFinite(low) ? low : y.from; // below a logarithmic axis
    const stroke = { stroke: errors.color ?? colour, "stroke-width": 1.3, fill: "none" };
    const caps = [top, bottom]
      .map((end) => `M${(place - 3).toFixed(2)} ${end.toFixed(2)}h6`)
      .join("");
    return [
      h("path", {
        d: `M${place.toFixed(2)} ${top.toFixed(2)}V${bottom.toFixed(2)}${caps}`,
        ...stroke,
      }),
    ];
  });
}

function heatmap(trace: Trace, n: number, ground: Ground): Drawn {
  const { x, y } = ground;
  const z = trace.z ?? [];
  const columns = z.reduce((most, row) => Math.max(most, row.length), 0);
  if (!columns) return { shapes: [], zones: [] };
  const box = cornered(
    x.pixel(-0.5),
    x.pixel(columns - 0.5),
    y.pixel(-0.5),
    y.pixel(z.length - 0.5),
  );
  const flipped = { x: x.to < x.from !== x.scale.high < x.scale.low, y: y.pixel(0) > y.pixel(1) };
  const cells = new Cells(box, z.length, columns, flipped, n, (row, column) =>
    cellLines(trace, row, column),
  );
  const painted =
    z.length * columns > MANY ? image(trace, columns, box, flipped, ground.paint) : null;
  const shapes = painted ? [painted] : coloured(trace, cells, columns);
  return {
    shapes: [...shapes, ...cellTexts(trace, cells, columns, ground.measure)],
    zones: [cells],
  };
}

function coloured(trace: Trace, cells: Cells, columns: number): Shape[] {
  const colour = colouring(trace);
  const shapes = (trace.z ?? []).flatMap((row, r) =>
    row.flatMap((value, c) =>
      value === null ? [] : [rectangle(cells.place(r * columns + c), { fill: hex(colour(value)) })],
    ),
  );
  // a frame tells cells that are zero from none, where there is room for it
  const frame = shapes.length <= FRAMED ? { stroke: GRID, "stroke-width": 1 } : {};
  return [h("g", { "shape-rendering": "crispEdges", ...frame }, ...shapes)];
}

function image(
  trace: Trace,
  columns: number,
  box: Box,
  flipped: { x: boolean; y: boolean },
  paint: Paint,
): Shape | null {
  const z = trace.z ?? [];
  const colour = colouring(trace);
  const address = paint(z.length, columns, (pixels) => {
    z.forEach((row, r) =>
      row.forEach((value, c) => {
        if (value === null) return;
        const down = flipped.y ? z.length - 1 - r : r;
        pixels.set([...colour(value), 255], 4 * (down * columns + c));
      }),
    );
  });
  if (!address) return null;
  const place = { x: box.x, y: box.y, width: box.wide, height: box.high };
  return h("image", {
    ...place,
    href: address,
    preserveAspectRatio: "none",
    "image-rendering": "pixelated",
  });
}

function cellTexts(trace: Trace, cells: Cells, columns: number, measure: Measure): Shape[] {
  const colour = colouring(trace);
  return (trace.text ?? []).flatMap((row, r) =>
    row.flatMap((text, c) => {
      const value = trace.z?.[r]?.[c];
      const { x, y, wide, high } = cells.place(r * columns + c);
      const shown = fitted(words(text), wide - 4, 11, measure);
      if (value === null || value === undefined || !shown || high < 11) return [];
      const place = {
        x: x + wide / 2,
        y: y + high / 2 + 4,
        "text-anchor": "middle",
        "font-size": 11,
      };
      return [h("text", { ...place, fill: inkOn(colour(value)) }, shown)];
    }),
  );
}

function cellLines(trace: Trace, row: number, column: number): string[] {
  const z = trace.z?.[row]?.[column] ?? null;
  const names = (trace.customdata?.[row] as readonly unknown[] | undefined)?.[column];
  const values = {
    x: trace.x?.[column],
    y: trace.y?.[row],
    z: z ?? "–",
    text: trace.text?.[row]?.[column],
    customdata: names,
  };
  return trace.hovertemplate
    ? said(trace.hovertemplate, values)
    : [`${values.x}, ${values.y}: ${values.z}`];
}

/** Quartiles and median, whiskers to the last value within 1.5 of the box's height, points
 * beyond. */
function box(trace: Trace, n: number, ground: Ground): Drawn {
  const values = finite(trace.y ?? []).sort((one, other) => one - other);
  const { x, y, figure } = ground;
  const middle = x.at(trace.name ?? "");
  const half = Math.min(60, x.unit * 0.3);
  if (!values.length) return { shapes: [], zones: [] };
  const [low = 0, median = 0, high = 0] = [0.25, 0.5, 0.75].map(
    (share) => quantileSorted(values, share) ?? 0,
  );
  const inside = values.filter(
    (value) => value >= low - 1.5 * (high - low) && value <= high + 1.5 * (high - low),
  );
  const [first, last] = [inside[0] ?? low, inside.at(-1) ?? high];
  const stroke = { stroke: colourOf(trace, n, figure), "stroke-width": 1.5, fill: "none" };
  const frame = cornered(middle - half, middle + half, y.at(low), y.at(high));
  const bars = [
    [first, low],
    [high, last],
  ].map(([one, other]) => h("path", { d: `M${middle} ${y.at(one)}V${y.at(other)}`, ...stroke }));
  const caps = [first, median, last].map((value, m) => {
    const wide = m === 1 ? half : half / 2;
    return h("path", { d: `M${middle - wide} ${y.at(value)}h${2 * wide}`, ...stroke });
  });
  const beyond = values
    .filter((value) => value < first || value > last)
    .map((value) =>
      h("circle", { cx: middle, cy: y.at(value), r: 2.5, ...stroke, "stroke-width": 1 }),
    );
  const told: [string, number][] = [
    ["lowest", first],
    ["first quartile", low],
    ["median", median],
    ["third quartile", high],
    ["highest", last],
  ];
  const spot = {
    ...frame,
    trace: n,
    at: [0],
    lines: [
      words(trace.name),
      ...told.map(([name, value]) => said(`${name}: %{y}`, { y: value })[0] ?? ""),
    ],
  };
  const filled = rectangle(frame, { ...stroke, fill: stroke.stroke, "fill-opacity": 0.25 });
  return { shapes: [...bars, filled, ...caps, ...beyond], zones: [new Marks([spot], false)] };
}

function cornered(x0: number, x1: number, y0: number, y1: number): Box {
  return {
    x: Math.min(x0, x1),
    y: Math.min(y0, y1),
    wide: Math.abs(x1 - x0),
    high: Math.abs(y1 - y0),
  };
}

function rectangle({ x, y, wide, high }: Box, look: Record<string, string | number>): Shape {
  return h("rect", { x, y, width: wide, height: high, ...look });
}

function faded(opacity: number | undefined): { opacity?: number } {
  return opacity === undefined ? {} : { opacity };
}

/** What one mark says. */
function lines(trace: Trace, m: number): string[] {
  const at = (cells: readonly Cell[] | undefined): Cell => cells?.[m] ?? null;
  const values = {
    x: at(trace.x) ?? m,
    y: at(trace.y),
    name: trace.name,
    customdata: trace.customdata?.[m],
  };
  if (trace.hovertemplate) return said(trace.hovertemplate, values);
  return [...(trace.name ? [words(trace.name)] : []), ...said("%{x}: %{y}", values)];
}
