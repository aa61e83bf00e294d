// Colours of heat maps: by their scale, and letters that stand out from them.

import { ADDS, type Trace } from "./data";

type Rgb = readonly [number, number, number];

/** The colour of a value on a trace's scale. */
export function colouring(trace: Trace): (value: number) => Rgb {
  const stops = (
    trace.colorscale ?? [
      [0, "#ffffff"],
      [1, ADDS],
    ]
  ).map(([at, colour]) => [at, rgb(colour)] as const);
  const { zmin = 0, zmax = 1 } = trace;
  return (value) => {
    const share = Math.min(1, Math.max(0, (value - zmin) / (zmax - zmin || 1)));
    const next = Math.max(
      1,
      stops.findIndex(([at]) => at >= share),
    );
    const [from, one] = stops[next - 1] ?? [0, [255, 255, 255]];
    const [to, other] = stops[next] ?? [1, one];
    return mixed(one, other, to > from ? (share - from) / (to - from) : 0);
  };
}

/** As SVG writes it. */
export function hex([red, green, blue]: Rgb): string {
  return `#${[red, green, blue].map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

/** Black or white, whichever stands out more. */
export function inkOn([red, green, blue]: Rgb): string {
  const linear = [red, green, blue].map((part) => (part / 255) ** 2.2);
  const light = 0.2126 * (linear[0] ?? 0) + 0.7152 * (linear[1] ?? 0) + 0.0722 * (linear[2] ?? 0);
  return light > 0.18 ? "#000000" : "#ffffff";
}

function mixed(one: Rgb, other: Rgb, share: number): Rgb {
  const part = (n: 0 | 1 | 2): number => Math.round(one[n] + (other[n] - one[n]) * share);
  return [part(0), part(1), part(2)];
}

function rgb(colour: string): Rgb {
  const digits = colour.replace("#", "");
  const part = (n: number): number => Number.parseInt(digits.slice(2 * n, 2 * n + 2), 16);
  return [part(0), part(1), part(2)];
}
