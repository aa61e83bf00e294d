// The drawing of a graph: nodes by what they give, links by what goes along them, pairs as joints.

import { ADDS, TAKES } from "../figure/data";
import { fitted, type Measure } from "../figure/text";
import { signed } from "../numbers";
import { h, type Shape } from "../svg";
import { printable } from "../text";
import { type Graph, type GraphNode, type Link, linkKey, type Pair, pairKey } from "./data";
import type { GraphState } from "./state";
import { type Joint, joints, type Places, places, type Spot } from "./layout";

export interface Look {
  readonly width: number;
  readonly measure: Measure;
  readonly tokens: readonly string[];
  readonly open: string; // what is not connected with it is paler
  readonly pinned: ReadonlySet<string>;
  readonly moved?: GraphState["moved"];
  readonly name: (node: GraphNode) => string;
}

export interface Sketch {
  readonly shape: Shape;
  readonly places: Places;
  readonly joints: readonly Joint[];
}

const WIDEST = 7; // pixels of a link
const PALE = 0.09;

export function sketch(graph: Graph, look: Look): Sketch {
  const placed = places(graph, look.width, look.moved);
  const found = joints(graph, placed, look.open);
  const links = linkShapes(graph, placed, found, look);
  const spots = [...placed.spots.values()];
  const nodes = spots.map((spot) => nodeShape(spot, graph, look));
  const labels = h(
    "g",
    { class: "graph-labels" },
    ...spots.map((spot) => labelShape(spot, graph, look)),
  );
  const size = {
    viewBox: `0 0 ${placed.width} ${placed.height}`,
    width: placed.width,
    height: placed.height,
  };
  const shape = h(
    "svg",
    { ...size, "font-size": 11 },
    ...frame(placed, look),
    h("g", { fill: "none" }, ...links),
    ...nodes,
    labels,
  );
  return { shape, places: placed, joints: found };
}

export function colour(value: number): string {
  return value < 0 ? TAKES : ADDS;
}

/** What is said of a node: its name, its place and what it gives. */
export function said(node: GraphNode, look: Pick<Look, "name" | "tokens">): string[] {
  const token = printable(look.tokens[node.position] ?? "");
  const paths = node.paths > 1 ? `, all ${node.paths} paths through it` : "";
  return [
    printable(look.name(node)),
    `at ${node.position} ${token}`,
    `${signed(node.influence)}${paths}`,
  ];
}

function frame({ columns, rows, width, height }: Places, { tokens, measure }: Look): Shape[] {
  const lines = rows.map(({ y }) => `M54 ${y}H${width.toFixed(1)}`).join("");
  const names = rows.map(({ name, y }) =>
    h("text", { x: 4, y: y + 4, fill: "currentColor", "fill-opacity": 0.85 }, name),
  );
  const below = columns.flatMap(({ position, x, wide }) => {
    const token = fitted(printable(tokens[position] ?? ""), Math.max(wide - 4, 30), 12, measure);
    const middle = { x: x + wide / 2, "text-anchor": "middle", fill: "currentColor" };
    return [
      h(
        "text",
        { ...middle, y: height - 18, "font-size": 12, "font-family": "ui-monospace, monospace" },
        token,
      ),
      h(
        "text",
        { ...middle, y: height - 4, "font-size": 10, "fill-opacity": 0.8 },
        String(position),
      ),
    ];
  });
  return [
    h("path", { d: lines, stroke: "rgba(127,127,127,0.25)", fill: "none" }),
    ...names,
    ...below,
  ];
}

function linkShapes(graph: Graph, { spots }: Places, found: readonly Joint[], look: Look): Shape[] {
  const largest = Math.max(
    1e-30,
    ...[...graph.links.values()].map((link) => Math.abs(link.weight)),
  );
  const wide = (value: number): number =>
    Math.max(0.6, WIDEST * Math.sqrt(Math.abs(value) / largest));
  const alone = unjoined(graph, found);
  const faint = (...ends: string[]): number =>
    look.open && !ends.includes(look.open) ? PALE : look.open ? 0.85 : 0.42;
  const single = alone.sort(bySize).flatMap((link) => {
    const [from, to] = [spots.get(link.source), spots.get(link.target)];
    if (!from || !to) return [];
    const stroke = {
      stroke: colour(link.weight),
      "stroke-width": wide(link.weight),
      "stroke-opacity": faint(link.source, link.target),
    };
    return [
      h("path", { d: curve(from, to), ...stroke, "data-link": linkKey(link.source, link.target) }),
    ];
  });
  return [
    ...single,
    ...found.flatMap((joint) =>
      jointShapes(joint, spots, wide(joint.value), faint(joint.node, joint.left, joint.right)),
    ),
  ];
}

/** Links as they are drawn beside the joints: those into a layer without what its joints show. */
function unjoined(graph: Graph, found: readonly Joint[]): Link[] {
  const drawn = new Set(found.map(pairName));
  const left = new Map<string, number>();
  for (const pair of graph.pairs.values()) {
    const value = drawn.has(pairName(pair)) ? 0 : pair.value;
    for (const end of new Set([pair.left, pair.right])) {
      const key = linkKey(end, pair.node);
      left.set(key, (left.get(key) ?? 0) + value);
    }
  }
  const links = [...graph.links.values()].map((link) => ({
    ...link,
    weight: left.get(linkKey(link.source, link.target)) ?? link.weight,
  }));
  return links.filter((link) => link.weight !== 0);
}

function pairName({ node, left, right }: Pair): string {
  return pairKey([node, left, right]);
}

/** Two links that meet below a layer, and go on into it together. */
function jointShapes(
  joint: Joint,
  spots: ReadonlyMap<string, Spot>,
  wide: number,
  faint: number,
): Shape[] {
  const [node, left, right] = [joint.node, joint.left, joint.right].map((id) => spots.get(id));
  if (!node || !left || !right) return [];
  const stroke = { stroke: colour(joint.value), "stroke-width": wide, "stroke-opacity": faint };
  const below = [...new Set([left, right])]
    .map((spot) => curve(spot, { x: joint.x, y: joint.y, size: 0 }))
    .join("");
  const key = { "data-pair": pairName(joint) };
  const square = left === right;
  const corner = square
    ? h("rect", {
        x: joint.x - 3,
        y: joint.y - 3,
        width: 6,
        height: 6,
        fill: colour(joint.value),
        "fill-opacity": faint + 0.15,
        ...key,
      })
    : h("circle", {
        cx: joint.x,
        cy: joint.y,
        r: 3,
        fill: colour(joint.value),
        "fill-opacity": faint + 0.15,
        ...key,
      });
  return [
    h("path", {
      d: `${below}M${point(joint.x, joint.y)}L${point(node.x, node.y + node.size)}`,
      ...stroke,
      ...key,
    }),
    corner,
  ];
}

function bySize(one: Link, other: Link): number {
  return Math.abs(one.weight) - Math.abs(other.weight);
}

/** A curve that leaves a node upwards and comes from below. */
function curve(from: Pick<Spot, "x" | "y" | "size">, to: Pick<Spot, "x" | "y" | "size">): string {
  const [start, end] = [from.y - from.size, to.y + to.size];
  const bend = Math.max(14, (start - end) * 0.45);
  const ends = [point(from.x, start - bend), point(to.x, end + bend), point(to.x, end)];
  return `M${point(from.x, start)}C${ends.join(" ")}`;
}

function point(x: number, y: number): string {
  return `${x.toFixed(1)} ${y.toFixed(1)}`;
}

function nodeShape({ node, x, y, size }: Spot, graph: Graph, look: Look): Shape {
  const fill = colour(node.influence);
  const ring = look.pinned.has(node.id)
    ? { stroke: "currentColor", "stroke-width": 2 }
    : { stroke: "currentColor", "stroke-opacity": 0.35 };
  const open =
    look.open === node.id
      ? [
          h("circle", {
            cx: x,
            cy: y,
            r: size + 5,
            fill: "none",
            stroke: "currentColor",
            "stroke-width": 2,
          }),
        ]
      : [];
  const name = { "data-node": node.id, class: "graph-node", opacity: near(node, graph, look) };
  return h("g", name, ...open, body(node, x, y, size, { fill, ...ring }));
}

/** The name above a node: as much of it as there is room for. */
function labelShape({ node, x, y, size, room }: Spot, graph: Graph, look: Look): Shape {
  const label = fitted(printable(look.name(node)), room, 10, look.measure);
  const place = {
    x,
    y: y - size - 4,
    "text-anchor": "middle",
    "font-size": 10,
    fill: "currentColor",
  };
  return h("text", { ...place, opacity: near(node, graph, look) }, label);
}

/** Paler where it is not linked with the open node. */
function near(node: GraphNode, graph: Graph, { open }: Look): number {
  return !open || open === node.id || linked(graph, open, node.id) ? 1 : 0.35;
}

/** Heads are round, layers square, groups a double square, inputs small rounds, the target a
 * lozenge. */
function body(
  node: GraphNode,
  x: number,
  y: number,
  size: number,
  look: Record<string, string | number>,
): Shape {
  if (node.kind === "logit") {
    const half = size + 2;
    return h("polygon", {
      points: `${x},${y - half} ${x + half},${y} ${x},${y + half} ${x - half},${y}`,
      ...look,
    });
  }
  if (node.kind === "group")
    return h("rect", {
      x: x - size - 3,
      y: y - size,
      width: 2 * size + 6,
      height: 2 * size,
      rx: 4,
      ...look,
    });
  if (/layer|tensor/.test(node.kind))
    return h("rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size, ...look });
  return h("circle", { cx: x, cy: y, r: size, ...look });
}

export function linked(graph: Graph, one: string, other: string): boolean {
  return graph.links.has(linkKey(one, other)) || graph.links.has(linkKey(other, one));
}
