// Lines and bands that a layout asks for, and words at a place.

import { h, type Shape } from "../svg";
import { INK, type Cell, type Note, type Outline } from "./data";
import type { Box } from "./place";
import type { Placed } from "./scale";
import { dashed } from "./traces";
import { words } from "./words";

const ANCHORS: Readonly<Record<string, string>> = { left: "start", right: "end", center: "middle" };

export function outlineShapes(outline: Outline, x: Placed, y: Placed, box: Box): Shape[] {
  const across = (cell: Cell): number =>
    outline.xref === "paper" ? box.x + Number(cell) * box.wide : x.at(cell);
  const down = (cell: Cell): number =>
    outline.yref === "paper" ? box.y + (1 - Number(cell)) * box.high : y.at(cell);
  const [x0, x1, y0, y1] = [
    across(outline.x0),
    across(outline.x1),
    down(outline.y0),
    down(outline.y1),
  ];
  if (![x0, x1, y0, y1].every(Number.isFinite)) return [];
  const { color = INK, width = 1.5, dash } = outline.line ?? {};
  if (outline.type === "line") {
    return [
      h("line", {
        x1: x0,
        x2: x1,
        y1: y0,
        y2: y1,
        stroke: color,
        "stroke-width": width,
        ...dashed(dash),
      }),
    ];
  }
  const place = {
    x: Math.min(x0, x1),
    y: Math.min(y0, y1),
    width: Math.abs(x1 - x0),
    height: Math.abs(y1 - y0),
  };
  const edge = width ? { stroke: color, "stroke-width": width, ...dashed(dash) } : {};
  return [h("rect", { ...place, fill: outline.fillcolor ?? "none", ...edge })];
}

export function noteShapes(note: Note, x: Placed, y: Placed, box: Box): Shape {
  const across = note.xref === "paper" ? box.x + Number(note.x) * box.wide : x.at(note.x);
  const down = note.yref === "paper" ? box.y + (1 - Number(note.y)) * box.high : y.at(note.y);
  const below = note.yanchor === "top" ? 12 : note.yanchor === "middle" ? 4 : -3;
  const anchor = ANCHORS[note.xanchor ?? "center"] ?? "middle";
  return h(
    "text",
    { x: across, y: down + below, "text-anchor": anchor, "font-size": 12, fill: "currentColor" },
    words(note.text),
  );
}
