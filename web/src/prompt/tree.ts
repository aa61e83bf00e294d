// An answer's paths as a tree: grouped by their first levels, the largest first. Every level is
// made when it is opened.

import { once } from "../once";
import type { State } from "../state";
import type { Answer, Node } from "../types";

/** A path as Python reads it, which it is told apart by; or as a person does, with tokens, and legs
 * that read the same said once. */
type Writing = "key" | "label";

/** All paths that begin alike, and what they add together. */
export interface Branch {
  readonly key: string; // how they begin, as a path is written
  readonly label: string; // the same, with tokens beside positions
  readonly value: number;
  readonly terms: readonly number[]; // the largest first
  readonly depth: number; // levels in which they are alike
}

export class Tree {
  private readonly keys = new Map<string, string>();

  constructor(private readonly answer: Answer) {}

  /** All paths, or those chosen, by the part that writes to the target. */
  top(terms: readonly number[] = this.answer.terms.map((_, n) => n)): Branch[] {
    return this.groups(terms, 0);
  }

  /** What a branch is made of: none is below one path. */
  below(branch: Branch): Branch[] {
    if (branch.terms.length < 2) return [];
    return this.groups(branch.terms, branch.depth + 1);
  }

  /** The whole path of a term, with tokens beside positions. */
  path(term: number): string {
    return this.text(this.root(term), Number.POSITIVE_INFINITY, "label");
  }

  /** The same as Python reads it: every leg by itself, and no tokens. */
  plain(term: number): string {
    return this.text(this.root(term), Number.POSITIVE_INFINITY, "key");
  }

  /** Paths grouped in as many levels as it takes to tell two apart. */
  private groups(terms: readonly number[], depth: number): Branch[] {
    const found = new Map<string, number[]>();
    for (const term of terms) {
      const key = this.text(this.root(term), depth, "key");
      const group = found.get(key);
      if (group) group.push(term);
      else found.set(key, [term]);
    }
    if (depth > 0 && found.size === 1 && terms.length > 1) return this.groups(terms, depth + 1);
    const made = [...found.values()].map((group) => this.branch(group, depth));
    return made.sort((one, other) => Math.abs(other.value) - Math.abs(one.value));
  }

  private branch(terms: readonly number[], depth: number): Branch {
    const root = this.root(terms[0] ?? 0);
    const levels = terms.length > 1 ? depth : Number.POSITIVE_INFINITY;
    const key = this.text(root, levels, "key");
    return { key, label: this.text(root, levels, "label"), value: this.sum(terms), terms, depth };
  }

  sum(terms: readonly number[]): number {
    return terms.reduce((held, term) => held + (this.answer.terms[term]?.[0] ?? 0), 0);
  }

  private root(term: number): number {
    return this.answer.terms[term]?.[1] ?? -1;
  }

  /** A path to `depth` levels; what is below stands as the whole write of its source. */
  private text(index: number, depth: number, as: Writing): string {
    const held = `${index} ${depth} ${as}`;
    const known = this.keys.get(held);
    if (known !== undefined) return known;
    const made = this.written(index, depth, as);
    this.keys.set(held, made);
    return made;
  }

  private written(index: number, depth: number, as: Writing): string {
    const node = this.answer.nodes[index];
    if (!node) return "?";
    if (node.k === "one") return "1";
    if (node.k === "stream") return "x";
    if (node.k === "latent") return node.l ?? "?";
    if (!node.i?.length || depth <= 0) return node.s;
    const below = node.i.map((child) => this.text(child, depth - 1, as));
    const read = node.legs ? legged(node.legs, below, as) : below;
    return `${node.s}${this.look(node, as !== "key")}(${read.join(as === "key" ? "," : ", ")})`;
  }

  /** Where a head looks: `@5→7`, or `@5 ␣was→7 ␣little`. */
  private look(node: Node, tokens: boolean): string {
    const at = looks(node);
    if (!at.length) return "";
    const placed = (at: number) =>
      tokens ? `${at} ${this.answer.tokens[at]?.name ?? ""}` : String(at);
    return `@${at.map(placed).join(",")}→${placed(node.t)}`;
  }
}

const MANY = 4; // legs, from which those that read the same are said once

/** What each leg reads; on a label what most of them read comes last, for all others. */
function legged(legs: readonly string[], below: readonly string[], as: Writing): string[] {
  const each = below.map((text, n) => `${legs[n] ?? "?"}: ${text}`);
  if (as !== "label" || legs.length < MANY) return each;
  const counts = new Map<string, number>();
  for (const text of below) counts.set(text, (counts.get(text) ?? 0) + 1);
  const [common = "", count = 0] = [...counts].sort((one, other) => other[1] - one[1])[0] ?? [];
  if (count < 2) return each;
  const others = count === below.length ? "all" : "others";
  return [...each.filter((_, n) => below[n] !== common), `${others}: ${common}`];
}

/** Where a part looks, if elsewhere than at its own position: of a head by its legs, the values'. */
export function looks(node: Node): readonly number[] {
  const at = node.a ?? [];
  return node.legs ? at.slice(-1) : at;
}

/** An answer's tree, which remembers what it has written. */
export const treeOf = once((answer: Answer) => new Tree(answer));

/** All branches that an answer's tree has, by their keys. */
export const branches: (answer: Answer) => ReadonlyMap<string, Branch> = once(
  (answer) => new Map(keyed(treeOf(answer))),
);

function* keyed(tree: Tree, level: Branch[] = tree.top()): Generator<[string, Branch]> {
  for (const branch of level) {
    yield [branch.key, branch];
    yield* keyed(tree, tree.below(branch));
  }
}

/** What shows the paths that begin so: unfolded, or chosen where it is one. */
export function unfolded(answer: Answer, ...wanted: string[]): Partial<State> {
  const found = wanted.flatMap((key) => branches(answer).get(key) ?? []);
  const open = found.filter((branch) => branch.terms.length > 1).map((branch) => branch.key);
  const single = found.find((branch) => branch.terms.length === 1);
  return { view: "paths", through: "", path: single?.terms[0] ?? null, open };
}

/** The same for a pair that a layer multiplies: the tree has one of its orders. */
export function unfoldedPair(
  answer: Answer,
  layer: string,
  left: string,
  right: string,
): Partial<State> {
  return unfolded(answer, layer, `${layer}(${left},${right})`, `${layer}(${right},${left})`);
}

const TOKENS = new Set(["embedding", "position"]);

type Places = (readonly number[])[];

/** Where each path starts at a token: nowhere, if it is not taken apart to the end. */
export const starts = once(startsOf);

function startsOf(answer: Answer): Places {
  const kinds = new Map(answer.sources.map((source) => [source.name, source.kind]));
  const ends = (node: Node): number[] | null => {
    if (node.k === "latent") return node.l === "base" ? [] : [node.t];
    if (node.k === "one") return [];
    const kind = kinds.get(node.s) ?? "";
    if (TOKENS.has(kind)) return [node.t];
    return kind === "bias" ? [] : null;
  };
  return answer.terms.map(([, root]) => {
    const found = leaves(answer.nodes, root).map(ends);
    if (found.some((places) => places === null)) return [];
    return [...new Set(found.flatMap((places) => places ?? []))].sort((one, other) => one - other);
  });
}

/** The nodes of a path, each once. */
export function within(nodes: readonly Node[], root: number): Node[] {
  const seen = new Set<number>();
  const ahead = [root];
  while (ahead.length) {
    const index = ahead.pop() as number;
    if (seen.has(index)) continue;
    seen.add(index);
    ahead.push(...(nodes[index]?.i ?? []));
  }
  return [...seen].flatMap((index) => nodes[index] ?? []);
}

function leaves(nodes: readonly Node[], root: number): Node[] {
  return within(nodes, root).filter((node) => !node.i?.length);
}

/** What each token gives, of some paths: one that starts at several is theirs in equal parts. */
export function lit(answer: Answer, terms: readonly number[]): number[] {
  const places = starts(answer);
  const values = answer.tokens.map(() => 0);
  for (const term of terms) {
    const at = places[term] ?? [];
    for (const place of at)
      values[place] = (values[place] ?? 0) + (answer.terms[term]?.[0] ?? 0) / at.length;
  }
  return values;
}

/** The terms through a source (`L1H3`, or where it looks: `L1H3@5→7`), or from a token (`@3`); all
 * of them for "". */
export function through(answer: Answer, what: string): number[] {
  const all = answer.terms.map((_, n) => n);
  if (!what) return all;
  if (what.startsWith("@")) {
    const [place, from] = [Number(what.slice(1)), starts(answer)];
    return all.filter((term) => from[term]?.includes(place));
  }
  const [, source = "", key, query] = /^(.*?)(?:@(\d+)\u2192(\d+))?$/.exec(what) ?? [];
  const passes = (node: Node) =>
    node.s === source &&
    (key === undefined || (node.t === Number(query) && looks(node).includes(Number(key))));
  return all.filter((term) => within(answer.nodes, answer.terms[term]?.[1] ?? -1).some(passes));
}
