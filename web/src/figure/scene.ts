// A figure as one drawing: its head, its legend, its axes side by side, and what stands in them.

import { h, type Shape } from "../svg";
import { axisShapes, bottomOf, leftOf, namesOf, rightOf } from "./axes";
import { bars, type Strip } from "./colourbar";
import { axesOf, type Axis, type Figure, type Layout, type Trace } from "./data";
import { legendOf } from "./legend";
import { noteShapes, outlineShapes } from "./outlines";
import type { Box, Panel, Room } from "./place";
import { type Placed, type Scale, scaleOf } from "./scale";
import { wrapped } from "./text";
import { KINDS } from "./traces";
import { words } from "./words";
import type { Zone } from "./zones";

export interface Scene {
  readonly shape: Shape;
  readonly width: number;
  readonly height: number;
  readonly zones: readonly Zone[];
}

const FRAME = 132; // of a layout's height, what stands around a plot on a screen of plotly's
const GAP = 14; // between tiles
const LEAST = { wide: 150, high: 150, plot: 60 }; // of a tile, and of any plot
const HEADING = 20;
const MARGIN = 4;
const TITLE = 22; // an axis's own
const BOLD = 1.1; // how much wider bold letters are

export function scene(figure: Figure, room: Room): Scene {
  const panels = panelsOf(figure);
  const head = headOf(figure.layout, room);
  const legend = legendOf(figure, room);
  const below = figure.layout.legend?.y === 0;
  const strip = bars(figure, room);
  const top = head.high + (below ? 0 : legend.high) + 8;
  const grid = gridOf(figure, panels, room, strip, top);
  const foot = grid.bottom + strip.below + (below ? legend.high + 6 : 0);
  const unknown = refusal(figure);
  const high = Math.ceil(foot + (unknown ? 20 : 0) + MARGIN);
  const shapes: Shape[] = [
    ...head.shapes,
    ...moved(legend.shapes, 0, below ? grid.bottom + strip.below + 6 : head.high),
  ];
  const zones: Zone[] = [];
  grid.places.forEach((box, n) => {
    const drawn = panelShapes(figure, panels[n] as Panel, box, grid, room);
    shapes.push(...drawn.shapes);
    zones.push(...drawn.zones);
  });
  shapes.push(...grid.titles, ...strip.shapes(grid.plot, grid.bottom));
  if (unknown)
    shapes.push(
      h("text", { x: MARGIN, y: high - 6, "font-size": 11, fill: "currentColor" }, unknown),
    );
  const size = { viewBox: `0 0 ${room.width} ${high}`, width: room.width, height: high };
  return {
    shape: h("svg", { ...size, "font-size": 11 }, ...shapes),
    width: room.width,
    height: high,
    zones,
  };
}

/** What is not drawn is said, so that nothing is left out unseen. */
function refusal(figure: Figure): string {
  const unknown = figure.data.map((trace) => trace.type).filter((type) => !(type in KINDS));
  return unknown.length ? `not drawn here: ${[...new Set(unknown)].join(", ")}` : "";
}

function panelsOf(figure: Figure): Panel[] {
  const found = new Map<string, Trace[]>();
  const over: { x: string; y: `yaxis${string}`; trace: Trace }[] = [];
  for (const trace of figure.data) {
    const { x, y } = axesOf(trace);
    if (figure.layout[y]?.overlaying) over.push({ x, y, trace });
    else found.set(`${x} ${y}`, [...(found.get(`${x} ${y}`) ?? []), trace]);
  }
  return [...found].map(([key, own]) => {
    const [x, y] = key.split(" ") as [`xaxis${string}`, `yaxis${string}`];
    const others = over.filter((one) => one.x === x);
    const overName = others[0]?.y ?? "";
    return {
      x: scaleOf(figure, x),
      y: scaleOf(figure, y),
      over: overName ? scaleOf(figure, overName as `yaxis${string}`) : null,
      overName,
      traces: [...own, ...others.map((one) => one.trace)],
      ...tileOf(figure.layout, x, y),
    };
  });
}

function tileOf(
  layout: Layout,
  x: `xaxis${string}`,
  y: `yaxis${string}`,
): Pick<Panel, "heading" | "tile"> {
  const wide = layout[x]?.domain;
  const high = layout[y]?.domain;
  if (!wide || !high) return { heading: "", tile: null };
  const heads = layout.annotations?.filter((note) => {
    return (
      Number(note.x) > wide[0] &&
      Number(note.x) < wide[1] &&
      Math.abs(Number(note.y) - high[1]) < 1e-9
    );
  });
  const tile = { wide: wide[1] - wide[0], high: high[1] - high[0] };
  return { heading: words(heads?.[0]?.text), tile };
}

interface Part {
  readonly shapes: readonly Shape[];
  readonly high: number;
}

function headOf(layout: Layout, { width, measure }: Room): Part {
  const lines = (text: string | undefined, size: number): string[] =>
    text ? wrapped(words(text), (width - 2 * MARGIN) / BOLD, size, measure) : [];
  const shapes: Shape[] = [];
  let high = 0;
  const write = (line: string, size: number, weight: number): void => {
    high += size + 6;
    const look = { "font-size": size, "font-weight": weight, fill: "currentColor" };
    shapes.push(h("text", { x: MARGIN, y: high - 3, ...look }, line));
  };
  for (const line of lines(layout.title?.text, 15)) write(line, 15, 600);
  for (const line of lines(layout.title?.subtitle?.text, 12)) write(line, 12, 400);
  return { shapes, high: high ? high + 4 : 0 };
}

/** Where all axes stand. */
interface Grid {
  readonly places: readonly Box[];
  readonly left: readonly boolean[]; // whether names stand beside each
  readonly low: readonly boolean[]; // and below it
  readonly plot: Box; // around all
  readonly bottom: number;
  readonly titles: readonly Shape[];
}

function gridOf(
  figure: Figure,
  panels: readonly Panel[],
  room: Room,
  strip: Strip,
  top: number,
): Grid {
  const { measure } = room;
  const titles = { x: titleOf(figure, "x"), y: titleOf(figure, "y") };
  const shared = panels.some(
    (panel) => panel.x.axis.showticklabels === false || panel.y.axis.showticklabels === false,
  );
  const outer = (titles.y ? TITLE : 0) + MARGIN;
  const right = strip.beside + Math.max(12, ...panels.map((panel) => rightOf(panel, measure)));
  const room0 = room.width - outer - right;
  const rough = heightOf(figure, room);
  const labels = panels.map((panel) => leftOf(panel.y, rough, room.width, measure));
  const columns = columnsOf(panels, room0, shared, labels);
  const rows = Math.ceil(panels.length / columns);
  const left = panels.map((_, n) => !shared || n % columns === 0);
  const low = panels.map((_, n) => !shared || n + columns >= panels.length);
  const lefts = Array.from({ length: columns }, (_, c) =>
    Math.max(0, ...labels.filter((_, n) => n % columns === c && left[n])),
  );
  const wide = Math.max(
    LEAST.plot,
    (room0 - lefts.reduce((sum, one) => sum + one, 0) - GAP * (columns - 1)) / columns,
  );
  const names = panels.map((panel) => bottomOf(panel.x, wide, measure));
  const high = tileHeight(figure, panels, room, {
    rows,
    columns,
    names,
    top,
    titled: !!titles.x,
    below: strip.below,
  });
  const places: Box[] = [];
  let y = top;
  for (let row = 0; row < rows; row += 1) {
    let x = outer;
    const here = panels.slice(row * columns, (row + 1) * columns);
    if (here.some((panel) => panel.heading)) y += HEADING;
    here.forEach((_, c) => {
      x += lefts[c] ?? 0;
      places.push({ x, y, wide, high });
      x += wide + GAP;
    });
    y +=
      high +
      Math.max(
        8,
        ...here.map((_, c) => (low[row * columns + c] ? (names[row * columns + c] ?? 0) : 0)),
      );
    if (row < rows - 1) y += GAP / 2;
  }
  const plot = around(places);
  const written = titleShapes(titles, plot, y, room);
  return { places, left, low, plot, bottom: y + (titles.x ? TITLE : 0), titles: written };
}

/** The title of the axes on one side, which stands once. */
function titleOf(figure: Figure, side: "x" | "y"): string {
  const axes = Object.entries(figure.layout).filter(([key]) => key.startsWith(`${side}axis`));
  const plain = axes
    .map(([, axis]) => axis as Axis)
    .filter((axis) => !axis.overlaying && axis.visible !== false);
  return words(plain.map((axis) => axis.title?.text).find(Boolean));
}

function titleShapes(
  titles: { x: string; y: string },
  plot: Box,
  below: number,
  room: Room,
): Shape[] {
  const look = { "font-size": 12, "text-anchor": "middle", fill: "currentColor" };
  const shapes: Shape[] = [];
  const middle = plot.y + plot.high / 2;
  if (titles.y) {
    shapes.push(
      h(
        "text",
        { ...look, x: 0, y: 0, transform: `translate(14 ${middle.toFixed(1)}) rotate(-90)` },
        titles.y,
      ),
    );
  }
  if (titles.x) {
    const half = room.measure(titles.x, 12) / 2;
    const centre = Math.max(
      half + MARGIN,
      Math.min(plot.x + plot.wide / 2, room.width - half - MARGIN),
    );
    shapes.push(h("text", { ...look, x: centre, y: below + 15 }, titles.x));
  }
  return shapes;
}

function heightOf(figure: Figure, room: Room): number {
  return figure.layout.height ?? room.height;
}

function columnsOf(
  panels: readonly Panel[],
  room: number,
  shared: boolean,
  labels: readonly number[],
): number {
  const shares = panels.map((panel) => panel.tile?.wide ?? 1);
  const wanted = Math.max(
    1,
    Math.min(panels.length, Math.floor(1 / Math.max(...shares, 1e-9) + 0.3)),
  );
  const label = Math.max(0, ...labels);
  const fits = (columns: number): boolean =>
    room - label * (shared ? 1 : columns) - GAP * (columns - 1) >=
    columns * LEAST.wide * (columns > 2 ? 0.8 : 1);
  for (let columns = wanted; columns > 1; columns -= 1) if (fits(columns)) return columns;
  return 1;
}

function tileHeight(
  figure: Figure,
  panels: readonly Panel[],
  room: Room,
  grid: {
    rows: number;
    columns: number;
    names: readonly number[];
    top: number;
    titled: boolean;
    below: number;
  },
): number {
  const whole = heightOf(figure, room);
  const tile = panels[0]?.tile;
  if (tile) return Math.max(LEAST.high, (whole - FRAME) * tile.high);
  if (figure.layout.height) return Math.max(LEAST.plot, whole - FRAME);
  const around = grid.top + (grid.names[0] ?? 0) + (grid.titled ? TITLE : 0) + grid.below;
  return Math.max(LEAST.plot, whole - around - MARGIN);
}

function around(places: readonly Box[]): Box {
  const x = Math.min(...places.map((box) => box.x));
  const y = Math.min(...places.map((box) => box.y));
  const right = Math.max(...places.map((box) => box.x + box.wide));
  const low = Math.max(...places.map((box) => box.y + box.high));
  return places.length
    ? { x, y, wide: right - x, high: low - y }
    : { x: 0, y: 0, wide: 0, high: 0 };
}

function panelShapes(
  figure: Figure,
  panel: Panel,
  box: Box,
  grid: Grid,
  room: Room,
): { shapes: Shape[]; zones: Zone[] } {
  const x = panel.x.placed(box.x, box.x + box.wide);
  const upright = (scale: Scale): Placed => scale.placed(box.y + box.high, box.y);
  const y = upright(panel.y);
  const over = panel.over && upright(panel.over);
  const n = grid.places.indexOf(box);
  const named = { left: grid.left[n] ?? true, low: grid.low[n] ?? true };
  const axes = axisShapes({ figure, panel, box, x, y, over, named, measure: room.measure });
  const under: Shape[] = [];
  const shapes: Shape[] = [];
  const zones: Zone[] = [];
  for (const outline of figure.layout.shapes ?? []) {
    (outline.layer === "below" ? under : shapes).push(...outlineShapes(outline, x, y, box));
  }
  for (const trace of panel.traces) {
    const upon = axesOf(trace).y === panel.overName && over ? over : y;
    const ground = {
      figure,
      beside: panel.traces,
      x,
      y: upon,
      measure: room.measure,
      paint: room.paint,
    };
    const drawn = KINDS[trace.type]?.(trace, figure.data.indexOf(trace), ground);
    shapes.push(...(drawn?.shapes ?? []));
    zones.push(...(drawn?.zones ?? []).filter((zone) => zone.count));
  }
  const cut = [panel.x, panel.y].some((scale) => scale.axis.range) ? clipped(shapes, box) : shapes;
  const notes = panel.tile
    ? []
    : (figure.layout.annotations ?? []).map((note) => noteShapes(note, x, y, box));
  return {
    shapes: [
      ...under,
      ...axes.below,
      ...cut,
      ...axes.above,
      ...notes,
      ...namesOf(panel.heading, box, room.measure),
    ],
    zones,
  };
}

/** What is seen of shapes where an axis shows a part of what there is: a marker at its edge is
 * whole. */
function clipped(shapes: readonly Shape[], { x, y, wide, high }: Box): Shape[] {
  const edge = 6;
  const frame = { x: x - edge, y: y - edge, width: wide + 2 * edge, height: high + 2 * edge };
  const viewBox = `${frame.x} ${frame.y} ${frame.width} ${frame.height}`;
  return [h("svg", { ...frame, viewBox, overflow: "hidden" }, ...shapes)];
}

/** Shapes as one group, moved. */
function moved(shapes: readonly Shape[], x: number, y: number): Shape[] {
  return shapes.length ? [h("g", { transform: `translate(${x} ${y.toFixed(1)})` }, ...shapes)] : [];
}
