// Graphs as files of Neuronpedia's layout: saved with pins, groups and labels, and read again.

import type { Table } from "../export";
import { type Graph, graphOf, type Material, type Path, type Place, TARGET } from "./data";
import { type Names, named } from "./names";
import type { Shown } from "./shown";
import { drawnAs, type GraphState, groupNumber, shiftsOf, START } from "./state";

const DRAWN = 500; // links of a file, before it is asked for more

interface FileNode {
  node_id: string;
  jsNodeId: string;
  feature: number | null;
  layer: string;
  ctx_idx: number;
  reverse_ctx_idx: number;
  run_idx: number;
  run_reverse_idx: number;
  feature_type: string;
  clerp: string;
  influence: number | null;
  activation: number | null;
  token_prob: number;
  is_target_logit: boolean;
  pair_wise_contributors?: [string, string, number][];
}

export interface GraphFile {
  metadata: Record<string, unknown>;
  qParams: {
    linkType: string;
    pinnedIds: string[];
    clickedId: string;
    supernodes: string[][];
    clerps?: string[][];
    sg_pos: string;
    moved?: unknown[][]; // nodes put elsewhere by hand, in thousandths of the drawing
  };
  nodes: FileNode[];
  links: { source: string; target: string; weight: number }[];
}

/** What is drawn of a graph as a file, each node of a group by itself. Labels of one's own stand as
 * `clerps`, and as the nodes' own. */
export function fileOf(material: Material, shown: Shown, state: GraphState): GraphFile {
  const { nodes, links, pairs } = graphOf(shown.paths);
  const as = drawnAs(state);
  const kept = new Set([...nodes.keys()].filter((id) => shown.graph.nodes.has(as(id))));
  const own = Object.entries(state.labels);
  return {
    metadata: {
      schema_version: 1,
      slug: "bilens",
      scan: "bilens",
      prompt: material.prompt,
      prompt_tokens: [...material.tokens],
      generator: { name: "bilens" },
      target: material.target,
      total: material.total,
      remainder: material.total - shown.value,
      error: material.error,
      given: [...material.given],
    },
    qParams: {
      linkType: "both",
      pinnedIds: [...new Set([TARGET, ...state.pinned.flatMap((id) => members(state, id))])],
      clickedId: members(state, state.open || TARGET)[0] ?? TARGET,
      supernodes: state.groups.map((group) => [group.name, ...group.nodes]),
      ...(own.length ? { clerps: own.map(([id, label]) => [id, label]) } : {}),
      sg_pos: "",
      ...(Object.keys(state.moved).length
        ? { moved: Object.entries(state.moved).map(([id, at]) => [id, ...at]) }
        : {}),
    },
    nodes: [...nodes.values()]
      .filter(({ id }) => kept.has(id))
      .map((node) => {
        const triples = [...pairs.values()].filter(
          (pair) => pair.node === node.id && kept.has(pair.left) && kept.has(pair.right),
        );
        const target = node.id === TARGET;
        return {
          node_id: node.id,
          jsNodeId: node.id,
          feature: node.feature,
          layer: node.layer < 0 ? "E" : String(node.layer),
          ctx_idx: node.position,
          reverse_ctx_idx: material.tokens.length - 1 - node.position,
          run_idx: 0,
          run_reverse_idx: 0,
          feature_type: node.kind,
          clerp: state.labels[node.id] ?? named(node, material.tokens),
          influence: target ? material.total : node.influence,
          activation: null,
          token_prob: 0,
          is_target_logit: target,
          ...(triples.length
            ? {
                pair_wise_contributors: triples.map(
                  ({ left, right, value }): [string, string, number] => [left, right, value],
                ),
              }
            : {}),
        };
      }),
    links: [...links.values()]
      .filter((link) => kept.has(link.source) && kept.has(link.target))
      .map((link) => ({ ...link })),
  };
}

/** The links and pairs that are drawn, as rows. */
export function tableOf(graph: Graph, names: Names): Table {
  const links = [...graph.links.values()].map(({ source, target, weight }) => {
    return ["link", names.full(source), "", names.full(target), weight];
  });
  const pairs = [...graph.pairs.values()].map(({ left, right, node, value }) => {
    return ["pair", names.full(left), names.full(right), names.full(node), value];
  });
  return { columns: ["what", "from", "and", "to", "value"], rows: [...links, ...pairs] };
}

/** A file's graph and what was done to it. Each link stands as a path of its own, as a file has no
 * paths. Throws where it is no graph. */
export function read(text: string): { material: Material; state: GraphState } {
  const file = JSON.parse(text) as Partial<GraphFile>;
  if (!Array.isArray(file.nodes) || !Array.isArray(file.links))
    throw new Error("the file has no nodes and links");
  const places = new Map(file.nodes.map((node) => [node.node_id, placeOf(node)]));
  const links = file.links.flatMap((link) => linkPath(link, places));
  const pairs = file.nodes.flatMap((node) =>
    (node.pair_wise_contributors ?? []).map((pair) => pairPath(node.node_id, pair)),
  );
  const material = {
    ...about(file.metadata ?? {}, file.nodes),
    paths: [...links, ...pairs],
    stored: influences(file.nodes),
  };
  return { material, state: { ...stateOf(file as GraphFile, places), share: modest(links) } };
}

function linkPath(
  { source, target, weight }: GraphFile["links"][number],
  places: ReadonlyMap<string, Place>,
): Path[] {
  const [from, to] = [places.get(source), places.get(target)];
  if (!from || !to) return [];
  const nodes = to.kind === "logit" ? [from, to] : [from];
  return [{ value: Number(weight), number: -1, nodes, links: [[source, target]], pairs: [] }];
}

function pairPath(node: string, [left, right, value]: [string, string, number]): Path {
  return { value, number: -1, nodes: [], links: [], pairs: [[node, left, right]] };
}

/** Of many links the largest are drawn first. */
function modest(links: readonly Path[]): number {
  if (links.length <= DRAWN) return 1;
  const sizes = links.map((link) => Math.abs(link.value)).sort((one, other) => other - one);
  const whole = sizes.reduce((held, size) => held + size, 0);
  return sizes.slice(0, DRAWN).reduce((held, size) => held + size, 0) / (whole || 1);
}

/** What each node is said to give: of bilens's own files, where other values have another
 * meaning. */
function influences(nodes: readonly FileNode[]): Map<string, number> {
  const own = nodes.some((node) => node.node_id === TARGET);
  return new Map(own ? nodes.map((node) => [node.node_id, node.influence ?? 0]) : []);
}

function about(
  found: Readonly<Record<string, unknown>>,
  nodes: readonly FileNode[],
): Omit<Material, "paths" | "stored"> {
  const number = (key: string): number => Number(found[key] ?? Number.NaN);
  const list = (key: string): string[] => (Array.isArray(found[key]) ? found[key].map(String) : []);
  const targets = nodes.filter((node) => node.is_target_logit);
  return {
    tokens: list("prompt_tokens"),
    position: targets[0]?.ctx_idx ?? 0,
    prompt: String(found["prompt"] ?? ""),
    target: String(found["target"] ?? targets[0]?.clerp ?? "the target"),
    total: number("total"),
    remainder: number("remainder"),
    leftOut: 0,
    error: number("error"),
    given: list("given"),
  };
}

function placeOf(node: FileNode): Place {
  const layer = node.layer === "E" ? -1 : Number(node.layer);
  const label = String(node.clerp || node.node_id).replace(/ at \d+ .*$/s, "");
  const kind = /logit/.test(node.feature_type) ? "logit" : node.feature_type;
  return { id: node.node_id, label, kind, layer, position: node.ctx_idx, feature: node.feature };
}

function stateOf({ qParams, nodes }: GraphFile, places: ReadonlyMap<string, Place>): GraphState {
  const has = (id: string): boolean => places.has(id);
  const groups = (qParams?.supernodes ?? []).map(([name = "", ...ids]) => ({
    name,
    nodes: ids.filter(has),
  }));
  const targets = new Set(nodes.filter((node) => node.is_target_logit).map((node) => node.node_id));
  const made = { ...START, share: 1, groups: groups.filter((group) => group.nodes.length) };
  const drawn = drawnAs(made);
  const pinned = (qParams?.pinnedIds ?? []).filter((id) => has(id) && !targets.has(id)).map(drawn);
  const labels = Object.fromEntries(
    (qParams?.clerps ?? [])
      .filter(([id = ""]) => has(id))
      .map(([id = "", label = ""]) => [id, label]),
  );
  const { clickedId: open = "" } = qParams ?? {};
  return {
    ...made,
    pinned: [...new Set(pinned)],
    labels,
    moved: shiftsOf(qParams?.moved, (id) => has(id) || groupNumber(id) in made.groups),
    open: has(open) && !targets.has(open) ? drawn(open) : "",
  };
}

function members(state: GraphState, id: string): readonly string[] {
  return state.groups[groupNumber(id)]?.nodes ?? [id];
}
