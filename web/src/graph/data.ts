// A graph of what writes to a target: nodes, links and pairs, of an answer's paths or of a file.

import { once } from "../once";
import { goal } from "../prompt/figures";
import type { Answer, Node } from "../types";

export interface GraphNode {
  readonly id: string;
  readonly label: string; // what it is: L1H3, mlp0, f17 of mlp1.input
  readonly kind: string;
  readonly of?: string; // of a group: the kind of its topmost node
  readonly layer: number; // −1 before all layers
  readonly position: number;
  readonly feature: number | null;
  influence: number; // the value of all paths through it
  paths: number; // how many these are
}

export interface Link {
  readonly source: string;
  readonly target: string;
  weight: number; // the value of all paths along it
}

/** What a layer multiplies: two nodes below it, and the value of all paths that do so. */
export interface Pair {
  readonly node: string;
  readonly left: string;
  readonly right: string;
  value: number;
}

export interface Graph {
  readonly nodes: Map<string, GraphNode>;
  readonly links: Map<string, Link>;
  readonly pairs: Map<string, Pair>;
}

/** What graphs are made of: paths with their values, and what is said of all of them. */
export interface Material {
  readonly tokens: readonly string[];
  readonly position: number;
  readonly prompt: string;
  readonly target: string;
  readonly total: number;
  readonly remainder: number;
  readonly leftOut: number;
  readonly error: number;
  readonly given: readonly string[];
  readonly paths: readonly Path[];
  readonly stored: ReadonlyMap<string, number>; // influences that a file says itself
}

/** One path: its value, and the nodes, links and pairs that it passes, each once. */
export interface Path {
  readonly value: number;
  readonly number: number; // of the answer's terms; −1 of a file's links
  readonly nodes: readonly Place[];
  readonly links: readonly (readonly [source: string, target: string])[];
  readonly pairs: readonly (readonly [node: string, left: string, right: string])[];
}

export type Place = Omit<GraphNode, "influence" | "paths">;

export const TARGET = "target";
const CONSTANTS: Readonly<Record<string, string>> = { base: "bias", error: "reconstruction error" };

/** The paths of an answer, as `circuits.graph` of Python walks them. */
export const material = once(walked);

/** Which nodes there are. */
export function idsOf({ paths }: Material): Set<string> {
  return new Set(paths.flatMap((path) => path.nodes.map((place) => place.id)));
}

function walked(answer: Answer): Material {
  const known = new Map(answer.sources.map((source) => [source.name, source]));
  const top = Math.max(
    0,
    ...answer.terms.map(([, root]) => layerOf(answer.nodes[root]?.s ?? "", known)),
  );
  const name = goal(answer);
  const end: Place = {
    id: TARGET,
    label: name,
    kind: "logit",
    layer: top + 1,
    position: answer.position,
    feature: null,
  };
  const paths = answer.terms.map(([value, root], number) => {
    const passed = new Passed(answer.nodes, known);
    const last = passed.below(root, answer.position);
    passed.link(last, TARGET);
    passed.places.set(TARGET, end);
    return { value, number, ...passed.found() };
  });
  const tokens = answer.tokens.map((token) => token.name);
  const { position, prompt, total, remainder, error, given } = answer;
  const rest = { leftOut: answer.left_out, error, given, paths, stored: new Map<string, number>() };
  return { tokens, position, prompt, target: name, total, remainder, ...rest };
}

/** The nodes, links and pairs of some paths. `as` puts nodes together: a path counts once at each
 * node and link, however often it passes there, and what it does inside one node is not drawn. */
export function graphOf(paths: readonly Path[], as: (id: string) => string = (id) => id): Graph {
  const graph: Graph = { nodes: new Map(), links: new Map(), pairs: new Map() };
  for (const path of paths) {
    for (const [id, place] of distinct(path.nodes, (place) => as(place.id)))
      count(graph, id, place, path.value);
    const links = path.links.map(([one, other]) => [as(one), as(other)] as const);
    for (const [key, [source, target]] of distinct(links, ([one, other]) => linkKey(one, other))) {
      if (source !== target)
        added(graph.links, key, () => ({ source, target, weight: 0 })).weight += path.value;
    }
    const pairs = path.pairs.map(
      ([node, one, other]) => [as(node), ...sorted(as(one), as(other))] as const,
    );
    for (const [key, [node, left, right]] of distinct(pairs, pairKey)) {
      if (left === node || right === node) continue;
      added(graph.pairs, key, () => ({ node, left, right, value: 0 })).value += path.value;
    }
  }
  return graph;
}

export function linkKey(source: string, target: string): string {
  return `${source}\n${target}`;
}

export function pairKey([node, left, right]: readonly [string, string, string]): string {
  return `${node}\n${left}\n${right}`;
}

/** The first paths that hold `share` of all values' sizes, the largest first. */
export function largest(paths: readonly Path[], share: number): Path[] {
  if (share >= 1) return [...paths];
  const whole = paths.reduce((sum, path) => sum + Math.abs(path.value), 0);
  const sorted = [...paths].sort((one, other) => Math.abs(other.value) - Math.abs(one.value));
  let held = 0;
  return sorted.filter((path) => {
    const wanted = held < share * whole;
    held += Math.abs(path.value);
    return wanted;
  });
}

/** The sum of values in the order they stand in. */
export function sum(paths: readonly Path[]): number {
  return paths.reduce((held, path) => held + path.value, 0);
}

function count(graph: Graph, id: string, place: Place, value: number): void {
  const node = added(graph.nodes, id, () => ({ ...place, id, influence: 0, paths: 0 }));
  node.influence += value;
  node.paths += 1;
}

function added<V>(map: Map<string, V>, key: string, make: () => V): V {
  const found = map.get(key) ?? make();
  map.set(key, found);
  return found;
}

function distinct<T>(items: readonly T[], key: (item: T) => string): Map<string, T> {
  const found = new Map<string, T>();
  for (const item of items) if (!found.has(key(item))) found.set(key(item), item);
  return found;
}

function sorted(one: string, other: string): [string, string] {
  return one < other ? [one, other] : [other, one];
}

type Known = ReadonlyMap<string, { readonly kind: string; readonly layer: number | null }>;

/** The layer a source is in: as it says, or as its name does. */
function layerOf(source: string, known: Known): number {
  const layer = known.get(source)?.layer;
  return layer ?? Number(/^(?:L|[a-z]+)(\d+)/.exec(source)?.[1] ?? -1);
}

/** What one path passes, as it is walked from the target down. */
class Passed {
  readonly places = new Map<string, Place>();
  private readonly links = new Map<string, readonly [string, string]>();
  private readonly pairs = new Map<string, readonly [string, string, string]>();

  constructor(
    private readonly nodes: readonly Node[],
    private readonly known: Known,
  ) {}

  found(): Pick<Path, "nodes" | "links" | "pairs"> {
    return {
      nodes: [...this.places.values()],
      links: [...this.links.values()],
      pairs: [...this.pairs.values()],
    };
  }

  link(source: string, target: string): void {
    this.links.set(linkKey(source, target), [source, target]);
  }

  /** The node at the top of a tree that is read at `position`. */
  below(root: number, position: number): string {
    const node = this.nodes[root];
    if (!node) return this.place(`?@${position}`, "?", "bias", -1, position);
    const { s, t, k } = node;
    if (k === "one") return this.place(`1@${position}`, "1", "bias", -1, position);
    if (k === "stream")
      return this.place(`x.${s}@${t}`, `all that ${s || "it"} reads`, "residual stream", -1, t);
    if (k === "latent") return this.latent(s, t, node.l ?? "");
    const id = this.place(
      `${s}@${t}`,
      s,
      this.known.get(s)?.kind ?? kindOf(s),
      layerOf(s, this.known),
      t,
    );
    const ends = (node.i ?? []).map((child, n) => this.below(child, node.a?.[n] ?? t));
    for (const end of ends) this.link(end, id);
    ends.forEach((one, n) => ends.slice(n + 1).forEach((other) => this.pair(id, one, other)));
    return id;
  }

  private pair(node: string, one: string, other: string): void {
    const pair = [node, ...sorted(one, other)] as const;
    this.pairs.set(pairKey(pair), pair);
  }

  private latent(reader: string, t: number, name: string): string {
    const kind = CONSTANTS[name] ?? "latent";
    const feature = kind === "latent" ? Number(name.slice(1)) : null;
    return this.place(
      `${reader}.${name}@${t}`,
      `${name} of ${reader}.input`,
      kind,
      layerOf(reader, this.known),
      t,
      feature,
    );
  }

  private place(
    id: string,
    label: string,
    kind: string,
    layer: number,
    position: number,
    feature: number | null = null,
  ): string {
    if (!this.places.has(id)) this.places.set(id, { id, label, kind, layer, position, feature });
    return id;
  }
}

function kindOf(source: string): string {
  if (/^L\d+H\d+$/.test(source)) return "attention head";
  return /^mlp\d+/.test(source) ? "bilinear layer" : "embedding";
}
