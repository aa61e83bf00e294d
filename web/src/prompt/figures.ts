// What a view shows, as a figure: to be saved as SVG, PNG or CSV as any other figure is.

import { ADDS, type Figure, TAKES, type Trace } from "../figure/data";
import type { Answer, Lens, PairMatrix } from "../types";
import type { Branch } from "./tree";

const SIGNED = [
  [0, TAKES],
  [0.5, "#ffffff"],
  [1, ADDS],
] as const;
const STRENGTH = [
  [0, "#ffffff"],
  [0.6, ADDS],
  [1, "#00324e"],
] as const;
const BAR = 24; // pixels
const FRAME = 132;
const CELL = 26;

/** What is asked, in words. */
export function goal(answer: Answer): string {
  const one = `'${answer.target.name}'`;
  return answer.versus ? `${one} − '${answer.versus.name}'` : one;
}

/** Bars, the first on top. */
export function barFigure(
  title: string,
  names: readonly string[],
  values: readonly number[],
  unit: string,
): Figure {
  const bars: Trace = {
    type: "bar",
    orientation: "h",
    x: values,
    y: names.map((_, n) => n),
    marker: { color: values.map((value) => (value < 0 ? TAKES : ADDS)) },
    customdata: names.map((name, n) => [name, values[n] ?? null]),
    hovertemplate: `%{customdata[0]}<br>${unit}: %{customdata[1]:.4~g}<extra></extra>`,
  };
  return {
    data: [bars],
    layout: {
      title: { text: title },
      xaxis: { title: { text: unit } },
      yaxis: { tickvals: names.map((_, n) => n), ticktext: [...names], autorange: "reversed" },
      height: FRAME + BAR * Math.max(names.length, 4),
    },
  };
}

export function branchFigure(answer: Answer, branches: readonly Branch[]): Figure {
  const names = [
    ...branches.map((branch) => branch.label),
    `remainder: ${answer.left_out} more paths`,
  ];
  return barFigure(
    `What makes ${goal(answer)}`,
    names,
    [...branches.map((one) => one.value), answer.remainder],
    "logit",
  );
}

/** Direct and effect side by side. */
export function sourceFigure(
  answer: Answer,
  rows: readonly { name: string; direct: number; effect: number | null }[],
): Figure {
  const names = rows.map((row) => row.name);
  const { data, layout } = barFigure(
    `What writes ${goal(answer)}, and what it loses with zero in its place`,
    names,
    rows.map((row) => row.direct),
    "logit",
  );
  const effects: Trace = {
    type: "scatter",
    mode: "markers",
    name: "effect, zero in its place",
    x: rows.map((row) => row.effect),
    y: names.map((_, n) => n),
    marker: { color: "#009E73", size: 9, symbol: "diamond" },
    customdata: rows.map((row) => [row.name, row.effect]),
    hovertemplate: "%{customdata[0]}<br>effect: %{customdata[1]:.4~g}<extra></extra>",
  };
  return {
    data: [...data.map((trace) => ({ ...trace, name: "direct" })), effects],
    layout: { ...layout, showlegend: true },
  };
}

interface Map {
  title: string;
  values: readonly (readonly (number | null)[])[];
  across: readonly string[];
  down: readonly string[];
  unit: string;
  x?: string;
  y?: string;
  strength?: boolean;
  texts?: readonly (readonly string[])[];
}

export function heatFigure(map: Map): Figure {
  const cells = map.values.flatMap((row) => row.map((cell) => Math.abs(cell ?? 0)));
  const largest = cells.reduce((one, other) => Math.max(one, other), 0) || 1;
  const trace: Trace = {
    type: "heatmap",
    z: map.values,
    x: map.across.map((_, n) => n),
    y: map.down.map((_, n) => n),
    zmin: map.strength ? 0 : -largest,
    zmax: largest,
    colorscale: map.strength ? STRENGTH : SIGNED,
    colorbar: { title: { text: map.unit } },
    customdata: map.down.map((row) => map.across.map((column) => [row, column])),
    hovertemplate: `%{customdata[0]} · %{customdata[1]}<br>${map.unit}: %{z:.4~g}<extra></extra>`,
    ...(map.texts ? { text: map.texts } : {}),
  };
  return {
    data: [trace],
    layout: {
      title: { text: map.title },
      xaxis: { title: { text: map.x ?? "" }, ...ticks(map.across, 30) },
      yaxis: { title: { text: map.y ?? "" }, ...ticks(map.down, 60), autorange: "reversed" },
      height: Math.min(900, Math.max(300, FRAME + CELL * map.down.length)),
    },
  };
}

/** Names on an axis whose places are 0, 1, 2, …: every one, or evenly spaced ones of many. */
function ticks(
  names: readonly string[],
  most: number,
): { tickvals: number[]; ticktext: string[]; showgrid: false; zeroline: false } {
  const step = Math.ceil(names.length / most) || 1;
  const tickvals = names.map((_, n) => n).filter((n) => n % step === 0);
  return {
    tickvals,
    ticktext: tickvals.map((n) => names[n] ?? ""),
    showgrid: false,
    zeroline: false,
  };
}

/** A layer's pairs as a triangle: both orders together. `chosen`: which of its sources, by
 * number. */
export function pairFigure(answer: Answer, matrix: PairMatrix, chosen: readonly number[]): Figure {
  const names = chosen.map((n) => matrix.names[n] ?? "");
  const values = chosen.map((row, n) =>
    chosen.map((column, m) => (m > n ? null : pairValue(matrix, row, column))),
  );
  return heatFigure({
    title: `Pairs that ${matrix.layer} multiplies, towards ${goal(answer)}`,
    values,
    across: names,
    down: names,
    unit: "what both orders add",
    x: "one source",
    y: "the other",
  });
}

export function pairValue(matrix: PairMatrix, one: number, other: number): number {
  return matrix.values[Math.max(one, other)]?.[Math.min(one, other)] ?? 0;
}

/** The sources of a layer that weigh most in its pairs, in their own order. */
export function strongest(matrix: PairMatrix, most: number): number[] {
  const weights = matrix.names.map((_, n) =>
    matrix.names.reduce((sum, __, m) => sum + Math.abs(pairValue(matrix, n, m)), 0),
  );
  const order = weights
    .map((_, n) => n)
    .sort((one, other) => (weights[other] ?? 0) - (weights[one] ?? 0));
  return order.slice(0, most).sort((one, other) => one - other);
}

export function lensFigure(answer: Answer, lens: Lens): Figure {
  return heatFigure({
    title: "What the stream says after each part",
    values: lens.probabilities,
    across: answer.tokens.map((token, n) => `${n} ${token.name}`),
    down: lens.places,
    unit: "probability of the likeliest",
    x: "position",
    y: "after",
    strength: true,
    texts: lens.says,
  });
}
