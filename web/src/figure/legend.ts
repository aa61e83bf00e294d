// The names of traces beside what they look like.

import { h, type Shape } from "../svg";
import type { Figure, Trace } from "./data";
import type { Room } from "./place";
import { fitted } from "./text";
import { colourOf, dashed, marker } from "./traces";
import { words } from "./words";

const ROW = 20;
const SAMPLE = 26; // pixels of what a trace looks like
const BETWEEN = 16;

export function legendOf(
  figure: Figure,
  { width, measure }: Room,
): { shapes: Shape[]; high: number } {
  const named = figure.data.filter(
    (trace) => trace.name && trace.type !== "box" && trace.showlegend !== false,
  );
  const wanted = figure.layout.showlegend ?? named.length > 1;
  if (!wanted || !named.length) return { shapes: [], high: 0 };
  const shapes: Shape[] = [];
  let [x, row] = [4, 0];
  for (const trace of named) {
    const text = fitted(words(trace.name), width - SAMPLE - 12, 12, measure);
    const wide = SAMPLE + measure(text, 12);
    if (x > 4 && x + wide > width - 4) [x, row] = [4, row + 1];
    const y = row * ROW + 12;
    shapes.push(...sample(figure, trace, x, y));
    shapes.push(
      h("text", { x: x + SAMPLE, y: y + 4, "font-size": 12, fill: "currentColor" }, text),
    );
    x += wide + BETWEEN;
  }
  return { shapes, high: (row + 1) * ROW + 4 };
}

function sample(figure: Figure, trace: Trace, x: number, y: number): Shape[] {
  const colour = colourOf(trace, figure.data.indexOf(trace), figure);
  const opacity = trace.opacity ?? 1;
  if (trace.type === "bar")
    return [h("rect", { x: x + 4, y: y - 6, width: 14, height: 12, fill: colour, opacity })];
  const mode = trace.mode ?? "lines+markers";
  const line = h("line", {
    x1: x,
    x2: x + 20,
    y1: y,
    y2: y,
    stroke: colour,
    opacity,
    "stroke-width": trace.line?.width ?? 2,
    ...dashed(trace.line?.dash),
  });
  const size = Array.isArray(trace.marker?.size)
    ? 8
    : Math.min(Number(trace.marker?.size ?? 6), 12);
  const point = marker(
    { ...trace, marker: { ...trace.marker, size } },
    { x: x + 10, y, m: 0 },
    colour,
  );
  return [...(mode.includes("lines") ? [line] : []), ...(mode.includes("markers") ? [point] : [])];
}
