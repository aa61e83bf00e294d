// Where nodes stand: layers up, positions across; in one place side by side, the largest first.

import type { Graph, GraphNode, Pair } from "./data";
import { FULL, type GraphState } from "./state";

type Moved = GraphState["moved"];

export interface Spot {
  readonly node: GraphNode;
  readonly x: number;
  readonly y: number;
  readonly size: number; // half of its width
  readonly room: number; // pixels for its label
  readonly row: number; // 0 at the bottom
}

export interface Column {
  readonly position: number;
  readonly x: number;
  readonly wide: number;
}

export interface Row {
  readonly name: string;
  readonly y: number;
}

export interface Places {
  readonly spots: Map<string, Spot>;
  readonly columns: readonly Column[];
  readonly rows: readonly Row[];
  readonly row: number; // pixels between two rows
  readonly width: number;
  readonly height: number;
}

/** A pair that is drawn: where its two links meet, below the layer that multiplies them. */
export interface Joint extends Pair {
  readonly x: number;
  readonly y: number;
}

const ROW = { most: 76, least: 40, all: 1000 }; // pixels: of a row, and of all where there are many
const APART = 38; // pixels between two nodes
const SIZES = { least: 4, most: 13 };
const SIDE = { left: 58, right: 14, top: 30, bottom: 46 };
const JOINTS = { few: 5, many: 24 }; // drawn of a layer: at most, and of one that is open
const STEP = { most: 16, least: 7 }; // pixels between two of them
const DROP = 0.32; // of a row, from a layer's node down to its joints
const LABEL = { alone: 84, least: 30 };
const LOGIT = 1e6; // above all layers
// how far lone nodes of a row stand aside, so that links do not hide one another: more where many
// rows stand one over another
const FEW = 9;
const ASIDE = { few: [-1, 0, 1], many: [-0.9, 0.3, -0.3, 0.9, 0, -0.6, 0.6] };
const REACH = { few: 22, many: 150 };

/** Places of all nodes, in at least `width` pixels: in more where that is not enough. Those that
 * were moved by hand stand where they were put, inside the drawing. */
export function places(graph: Graph, width: number, moved: Moved = {}): Places {
  const nodes = [...graph.nodes.values()];
  const levels = [...new Set(nodes.map(level))].sort((one, other) => one - other);
  const cells = new Map<string, GraphNode[]>();
  for (const node of nodes) {
    const key = `${level(node)} ${node.position}`;
    cells.set(key, [...(cells.get(key) ?? []), node]);
  }
  const columns = columnsOf(nodes, cells, width);
  const high = Math.min(ROW.most, Math.max(ROW.least, ROW.all / levels.length));
  const height = SIDE.top + SIDE.bottom + high * Math.max(levels.length - 1, 1);
  const y = (row: number): number => height - SIDE.bottom - row * high;
  const largest = Math.max(
    1e-30,
    ...nodes.filter((node) => node.kind !== "logit").map((node) => Math.abs(node.influence)),
  );
  const spots = new Map<string, Spot>();
  for (const column of columns) {
    levels.forEach((one, row) => {
      const here = cells.get(`${one} ${column.position}`) ?? [];
      ordered(here).forEach((node, n) => {
        const aside = here.length === 1 ? lone(row, levels.length, column.wide) : 0;
        const x = column.x + ((n + 0.5) / here.length) * column.wide + aside;
        const share = Math.min(1, Math.abs(node.influence) / largest);
        const room =
          here.length === 1 ? LABEL.alone : Math.max(LABEL.least, column.wide / here.length - 4);
        spots.set(node.id, {
          node,
          x,
          y: y(row),
          row,
          room,
          size: SIZES.least + (SIZES.most - SIZES.least) * Math.sqrt(share),
        });
      });
    });
  }
  const last = columns.at(-1);
  const rows = levels.map((one, row) => ({ name: levelName(one), y: y(row) }));
  const wide = Math.max(width, (last ? last.x + last.wide : 0) + SIDE.right);
  for (const [id, [across, down]] of Object.entries(moved)) {
    const spot = spots.get(id);
    if (!spot) continue;
    const x = within(spot.x + (across / FULL) * wide, spot.size, wide - spot.size);
    const top = within(spot.y + (down / FULL) * height, spot.size, height - spot.size);
    spots.set(id, { ...spot, x, y: top });
  }
  return { spots, columns, rows, row: high, width: wide, height };
}

function within(value: number, low: number, high: number): number {
  return Math.max(low, Math.min(high, value));
}

/** How far a node that is alone in its place stands aside. */
function lone(row: number, rows: number, wide: number): number {
  const kind = rows > FEW ? "many" : "few";
  const share = ASIDE[kind][row % ASIDE[kind].length] ?? 0;
  return share * Math.min(REACH[kind], wide / (kind === "many" ? 3 : 5));
}

/** Where the largest pairs of each layer are joined, side by side below its node: more of the one
 * that is open. */
export function joints(graph: Graph, { spots, row }: Places, open: string): Joint[] {
  const seen = [...graph.pairs.values()].filter(
    ({ node, left, right }) => spots.has(node) && spots.has(left) && spots.has(right),
  );
  const layers = [...new Set(seen.map((pair) => pair.node))];
  return layers.flatMap((id) => {
    const most = id === open ? JOINTS.many : JOINTS.few;
    const own = seen
      .filter((pair) => pair.node === id)
      .sort((one, other) => Math.abs(other.value) - Math.abs(one.value));
    return beside(own.slice(0, most), spots.get(id) as Spot, spots, DROP * row);
  });
}

/** Joints in the order of what they join, so that few of their links cross. */
function beside(
  pairs: readonly Pair[],
  spot: Spot,
  spots: ReadonlyMap<string, Spot>,
  drop: number,
): Joint[] {
  const middle = (pair: Pair): number =>
    ((spots.get(pair.left)?.x ?? 0) + (spots.get(pair.right)?.x ?? 0)) / 2;
  const across = [...pairs].sort((one, other) => middle(one) - middle(other));
  const step = Math.max(STEP.least, Math.min(STEP.most, 120 / across.length));
  return across.map((pair, n) => ({
    ...pair,
    x: spot.x + (n - (across.length - 1) / 2) * step,
    y: spot.y + drop,
  }));
}

/** Above the embeddings each layer has its heads, and its MLP above them. */
function level(node: GraphNode): number {
  if (node.kind === "logit") return LOGIT;
  if (node.layer < 0) return -1;
  const kind = node.of ?? node.kind;
  if (kind === "latent" || kind === "reconstruction error") return 4 * node.layer + 1;
  const above = /layer|transcoder|mlp|tensor/.test(kind) || /^mlp/.test(node.label);
  return 4 * node.layer + (above ? 2 : 0);
}

function levelName(level: number): string {
  if (level < 0) return "input";
  if (level === LOGIT) return "logit";
  const layer = Math.floor(level / 4);
  return [`heads ${layer}`, `latents ${layer}`, `mlp${layer}`][level % 4] ?? String(layer);
}

/** The largest in the middle would hide neighbours' links: by name, so that a place stays. */
function ordered(nodes: readonly GraphNode[]): GraphNode[] {
  return [...nodes].sort((one, other) =>
    one.label.localeCompare(other.label, "en", { numeric: true }),
  );
}

function columnsOf(
  nodes: readonly GraphNode[],
  cells: ReadonlyMap<string, readonly GraphNode[]>,
  width: number,
): Column[] {
  const positions = [...new Set(nodes.map((node) => node.position))].sort(
    (one, other) => one - other,
  );
  const needed = positions.map((position) => {
    const counts = [...cells]
      .filter(([key]) => key.endsWith(` ${position}`))
      .map(([, here]) => here.length);
    return APART * Math.max(1.3, ...counts);
  });
  const whole = needed.reduce((sum, one) => sum + one, 0);
  const room = width - SIDE.left - SIDE.right;
  const stretch = Math.max(1, room / whole);
  let x = SIDE.left;
  return positions.map((position, n) => {
    const wide = (needed[n] ?? APART) * stretch;
    const column = { position, x, wide };
    x += wide;
    return column;
  });
}

export type Way = "left" | "right" | "up" | "down";

/** The next node in a row; or the nearest of the row above or below. */
export function neighbour(
  spots: ReadonlyMap<string, Spot> | undefined,
  id: string,
  way: Way,
): string | null {
  const here = spots?.get(id);
  if (!spots || !here) return null;
  const aside = way === "left" || way === "right";
  const sign = way === "left" || way === "down" ? -1 : 1;
  const ahead = [...spots.values()].filter((spot) =>
    aside
      ? spot.row === here.row && sign * (spot.x - here.x) > 0
      : sign * (spot.row - here.row) > 0,
  );
  const away = (spot: Spot): number =>
    (aside ? 0 : 1e6 * Math.abs(spot.row - here.row)) + Math.abs(spot.x - here.x);
  return ahead.sort((one, other) => away(one) - away(other))[0]?.node.id ?? null;
}
