// Graphs as files of Neuronpedia's layout: saved with pins, groups and labels, and read again.

import { graphOf, type Material, type Path, type Place, TARGET } from "./data";
import { drawnAs, type GraphState, groupNumber, START } from "./state";

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
  };
  nodes: FileNode[];
  links: { source: string; target: string; weight: number }[];
}

/** The graph of `paths` as a file. Labels of one's own stand as `clerps`, and as the nodes' own. */
export function fileOf(material: Material, paths: readonly Path[], state: GraphState): GraphFile {
  const { nodes, links, pairs } = graphOf(paths);
  const kept = new Set([...nodes.keys()].filter((id) => !state.hidden.includes(id)));
  const shown = paths.reduce((sum, path) => sum + path.value, 0);
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
      remainder: material.total - shown,
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
    },
    nodes: [...nodes.values()].filter(({ id }) => kept.has(id)).map((node) => {
      const triples = [...pairs.values()].filter((pair) => pair.node === node.id && kept.has(pair.left) && kept.has(pair.right));
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
        ...(triples.length ? { pair_wise_contributors: triples.map(({ left, right, value }): [string, string, number] => [left, right, value]) } : {}),
      };
    }),
    links: [...links.values()].filter((link) => kept.has(link.source) && kept.has(link.target)).map((link) => ({ ...link })),
  };
}

/** What a node is and where, with its token. */
export function named(node: Pick<Place, "label" | "position">, tokens: readonly string[]): string {
  return `${node.label} at ${node.position} ${tokens[node.position] ?? ""}`.trimEnd();
}

/** A file's graph and what was done to it. Each link stands as a path of its own, as a file has no
 * paths. Throws where it is no graph. */
export function read(text: string): { material: Material; state: GraphState } {
  const file = JSON.parse(text) as Partial<GraphFile>;
  if (!Array.isArray(file.nodes) || !Array.isArray(file.links)) throw new Error("the file has no nodes and links");
  const places = new Map(file.nodes.map((node) => [node.node_id, placeOf(node)]));
  const ends = new Set(file.nodes.filter((node) => node.is_target_logit).map((node) => node.node_id));
  const paths: Path[] = file.links.filter(({ source, target }) => places.has(source) && places.has(target)).map((link) => {
    const { source, target } = link;
    return { value: Number(link.weight), number: -1, nodes: ends.has(target) ? [places.get(source) as Place, places.get(target) as Place] : [places.get(source) as Place], links: [[source, target]], pairs: [] };
  });
  const pairs = file.nodes.flatMap((node) => (node.pair_wise_contributors ?? []).map(([left, right, value]): Path => {
    return { value, number: -1, nodes: [], links: [], pairs: [[node.node_id, left, right]] };
  }));
  const about = file.metadata ?? {};
  const words = (key: string): string => String(about[key] ?? "");
  const material: Material = {
    tokens: Array.isArray(about["prompt_tokens"]) ? about["prompt_tokens"].map(String) : [],
    position: file.nodes.find((node) => node.is_target_logit)?.ctx_idx ?? 0,
    prompt: words("prompt"),
    target: words("target") || (file.nodes.find((node) => node.is_target_logit)?.clerp ?? "target"),
    total: Number(about["total"] ?? Number.NaN),
    remainder: Number(about["remainder"] ?? Number.NaN),
    leftOut: 0,
    error: Number(about["error"] ?? Number.NaN),
    given: Array.isArray(about["given"]) ? about["given"].map(String) : [],
    paths: [...paths, ...pairs],
  };
  return { material, state: stateOf(file as GraphFile, places) };
}

function placeOf(node: FileNode): Place {
  const layer = node.layer === "E" ? -1 : Number(node.layer);
  const label = (node.clerp || node.node_id).replace(/ at \d+ .*$/s, "");
  return { id: node.node_id, label, kind: node.feature_type, layer, position: node.ctx_idx, feature: node.feature };
}

function stateOf({ qParams, nodes }: GraphFile, places: ReadonlyMap<string, Place>): GraphState {
  const has = (id: string): boolean => places.has(id);
  const groups = (qParams?.supernodes ?? []).map(([name = "", ...ids]) => ({ name, nodes: ids.filter(has) }));
  const targets = new Set(nodes.filter((node) => node.is_target_logit).map((node) => node.node_id));
  const made = { ...START, share: 1, groups: groups.filter((group) => group.nodes.length) };
  const drawn = drawnAs(made);
  const pinned = (qParams?.pinnedIds ?? []).filter((id) => has(id) && !targets.has(id)).map(drawn);
  const labels = Object.fromEntries((qParams?.clerps ?? []).filter(([id = ""]) => has(id)).map(([id = "", label = ""]) => [id, label]));
  const open = qParams?.clickedId ?? "";
  return { ...made, pinned: [...new Set(pinned)], labels, open: has(open) && !targets.has(open) ? drawn(open) : "" };
}

function members(state: GraphState, id: string): readonly string[] {
  return state.groups[groupNumber(id)]?.nodes ?? [id];
}
