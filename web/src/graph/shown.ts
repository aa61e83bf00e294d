// What of a graph is drawn, by what its reader asked for.

import {
  type Graph,
  type GraphNode,
  graphOf,
  largest,
  type Material,
  type Path,
  sum,
  TARGET,
} from "./data";
import { drawnAs, groupId, type GraphState } from "./state";

export interface Shown {
  readonly graph: Graph; // what is drawn
  readonly whole: Graph; // all of the paths that are shown, whatever is hidden
  readonly paths: readonly Path[];
  readonly value: number; // of these
  readonly rest: number; // of all others, those that were not kept among them
  readonly size: number; // their share of the sizes of all paths
  readonly smaller: number; // how many paths are left out by the share
}

export function shown(material: Material, state: GraphState): Shown {
  const paths = largest(material.paths, state.share);
  const whole = dressed(graphOf(paths, drawnAs(state)), material, state);
  const drawn = kept(whole, state);
  const value = sum(material.paths.some((path) => path.number >= 0) ? paths : intoTarget(paths));
  const sizes = (some: readonly Path[]): number =>
    some.reduce((held, path) => held + Math.abs(path.value), 0);
  const whole0 = sizes(material.paths) || 1;
  return {
    graph: drawn,
    whole,
    paths,
    value,
    rest: material.total - value,
    size: sizes(paths) / whole0,
    smaller: material.paths.length - paths.length,
  };
}

/** Of a file's links, those into its targets: they add up to what it holds. */
function intoTarget(paths: readonly Path[]): Path[] {
  return paths.filter((path) => path.nodes.some((node) => node.kind === "logit"));
}

/** Groups with their names, where the topmost of their nodes stands; the target with its total. */
function dressed(graph: Graph, material: Material, state: GraphState): Graph {
  const places = new Map(
    material.paths.flatMap((path) => path.nodes.map((place) => [place.id, place])),
  );
  const nodes = new Map(graph.nodes);
  state.groups.forEach((group, n) => {
    const node = nodes.get(groupId(n));
    const members = group.nodes.flatMap((id) => places.get(id) ?? []);
    const top = members.sort(
      (one, other) => other.layer - one.layer || other.position - one.position,
    )[0];
    if (node && top)
      nodes.set(node.id, {
        ...node,
        ...top,
        id: node.id,
        label: group.name,
        kind: "group",
        of: top.kind,
      });
  });
  for (const [id, influence] of material.stored) {
    const node = nodes.get(id);
    if (node) nodes.set(id, { ...node, influence });
  }
  const target = nodes.get(TARGET);
  if (target && Number.isFinite(material.total))
    nodes.set(TARGET, { ...target, influence: material.total });
  return { ...graph, nodes };
}

function kept(graph: Graph, state: GraphState): Graph {
  const near = state.centre ? connected(graph, state.centre) : null;
  const drawn = (node: GraphNode): boolean => {
    if (node.kind === "logit") return true;
    if (state.hidden.includes(node.id)) return false;
    if (state.only && node.kind !== "group" && !state.pinned.includes(node.id)) return false;
    return !near || near.has(node.id) || state.pinned.includes(node.id);
  };
  const nodes = new Map([...graph.nodes].filter(([, node]) => drawn(node)));
  const links = new Map(
    [...graph.links].filter(([, { source, target }]) => nodes.has(source) && nodes.has(target)),
  );
  const pairs = new Map(
    [...graph.pairs].filter(
      ([, { node, left, right }]) => nodes.has(node) && nodes.has(left) && nodes.has(right),
    ),
  );
  return { nodes, links, pairs };
}

/** All that leads to a node, and all that it leads to. */
function connected(graph: Graph, id: string): Set<string> {
  const found = new Set([id]);
  const walk = (from: "source" | "target", to: "source" | "target"): void => {
    const seen = new Set([id]);
    const ahead = [id];
    for (let one = ahead.pop(); one !== undefined; one = ahead.pop()) {
      for (const link of graph.links.values()) {
        if (link[from] !== one || seen.has(link[to])) continue;
        seen.add(link[to]);
        ahead.push(link[to]);
      }
    }
    for (const one of seen) found.add(one);
  };
  walk("source", "target");
  walk("target", "source");
  return found;
}
