// What a reader may look for: sections, tokens, parts and paths, by any piece of their names.

import { treeOf } from "./prompt/tree";
import type { State } from "./state";
import { printable } from "./text";
import type { Answer, BilensDocument } from "./types";

export interface Hit {
  readonly name: string;
  readonly kind: "section" | "token" | "part" | "path";
  readonly section: string;
  readonly state: Partial<State>; // what shows it
}

const MOST = 20; // of what is found

/** The first of what holds `words`, all of them, in any order. */
export function found(all: Iterable<Hit>, words: string): Hit[] {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  const hits: Hit[] = [];
  if (!wanted.length) return hits;
  for (const hit of all) {
    const name = hit.name.toLowerCase();
    if (wanted.every((word) => name.includes(word))) hits.push(hit);
    if (hits.length === MOST) break;
  }
  return hits;
}

/** Everything that can be found, the sections first. */
export function* everything(made: BilensDocument, shown: State): Generator<Hit> {
  for (const section of made.sections) {
    yield { name: printable(section.title), kind: "section", section: section.id, state: {} };
  }
  for (const section of made.sections) {
    if (section.kind !== "prompt") continue;
    const answers = section.data.answers;
    const answer = answers.find((one) => one.position === shown.pos) ?? answers[section.data.first];
    if (answer) yield* ofAnswer(section.id, answer);
  }
}

function* ofAnswer(section: string, answer: Answer): Generator<Hit> {
  for (const [n, token] of answer.tokens.entries()) {
    const state = { s: section, view: "paths", through: `@${n}`, path: null } as const;
    yield { name: printable(`${token.name} at ${n}`), kind: "token", section, state };
  }
  for (const source of answer.sources) {
    const state = { s: section, view: "paths", through: source.name, path: null } as const;
    yield { name: printable(source.label), kind: "part", section, state };
  }
  const tree = treeOf(answer);
  for (const term of answer.terms.keys()) {
    const state = { s: section, view: "paths", through: "", path: term } as const;
    yield { name: printable(tree.path(term)), kind: "path", section, state };
  }
}
