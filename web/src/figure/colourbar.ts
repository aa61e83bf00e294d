// What a colour of a heat map means: a strip beside it, or below it where there is little room.

import { h, type Shape } from "../svg";
import { colouring, hex } from "./colours";
import type { Figure, Trace } from "./data";
import type { Box, Room } from "./place";
import { colourTicks } from "./scale";
import { fitted, type Measure } from "./text";
import { words } from "./words";

/** Room beside and below the plots, and what stands there once they have their place. */
export interface Strip {
  readonly beside: number;
  readonly below: number;
  shapes(plot: Box, bottom: number): Shape[];
}

const NARROW = 520; // pixels, below which it lies under the plots
const THICK = 14;
const STEPS = 48;
const NONE: Strip = { beside: 0, below: 0, shapes: () => [] };

export function bars(figure: Figure, { width, measure }: Room): Strip {
  const trace = figure.data.find((one) => one.type === "heatmap" && one.showscale !== false);
  if (!trace?.z?.[0]?.length) return NONE;
  if (width < NARROW)
    return { beside: 0, below: 46, shapes: (plot, bottom) => lying(trace, plot, bottom, measure) };
  const { zmin = 0, zmax = 1 } = trace;
  const names = Math.max(...colourTicks(zmin, zmax).map((tick) => measure(tick.text, 11)));
  return {
    beside: THICK + names + 42,
    below: 0,
    shapes: (plot) => upright(trace, plot, names, measure),
  };
}

function upright(trace: Trace, plot: Box, names: number, measure: Measure): Shape[] {
  const { zmin = 0, zmax = 1 } = trace;
  const colour = colouring(trace);
  const x = plot.x + plot.wide + 14;
  const high = Math.min(plot.high, 420);
  const step = high / STEPS;
  const strip = Array.from({ length: STEPS }, (_, n) => {
    const value = zmax - ((n + 0.5) / STEPS) * (zmax - zmin);
    return h("rect", {
      x,
      y: plot.y + n * step,
      width: THICK,
      height: step + 0.6,
      fill: hex(colour(value)),
    });
  });
  const ticks = colourTicks(zmin, zmax).map(({ value, text }) => {
    const y = plot.y + ((zmax - value) / (zmax - zmin)) * high;
    return h("text", { x: x + THICK + 5, y: y + 4, fill: "currentColor" }, text);
  });
  const middle = (plot.y + high / 2).toFixed(1);
  const turn = `translate(${(x + THICK + names + 14).toFixed(1)} ${middle}) rotate(90)`;
  const unit = fitted(words(trace.colorbar?.title?.text), high, 12, measure);
  const title = h(
    "text",
    { transform: turn, "text-anchor": "middle", "font-size": 12, fill: "currentColor" },
    unit,
  );
  return [...strip, ...ticks, title];
}

function lying(trace: Trace, plot: Box, bottom: number, measure: Measure): Shape[] {
  const { zmin = 0, zmax = 1 } = trace;
  const colour = colouring(trace);
  const y = bottom + 6;
  const step = plot.wide / STEPS;
  const strip = Array.from({ length: STEPS }, (_, n) => {
    const value = zmin + ((n + 0.5) / STEPS) * (zmax - zmin);
    return h("rect", {
      x: plot.x + n * step,
      y,
      width: step + 0.6,
      height: 10,
      fill: hex(colour(value)),
    });
  });
  const ticks = colourTicks(zmin, zmax).map(({ value, text }) => {
    const x = plot.x + ((value - zmin) / (zmax - zmin)) * plot.wide;
    return h("text", { x, y: y + 22, "text-anchor": "middle", fill: "currentColor" }, text);
  });
  const unit = fitted(words(trace.colorbar?.title?.text), plot.wide, 12, measure);
  const title = h(
    "text",
    {
      x: plot.x + plot.wide / 2,
      y: y + 37,
      "text-anchor": "middle",
      "font-size": 12,
      fill: "currentColor",
    },
    unit,
  );
  return [...strip, ...ticks, title];
}
