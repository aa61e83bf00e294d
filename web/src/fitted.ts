// What of a state a document holds.

import { decoded as decodedGraph, encoded as encodedGraph, graphIds } from "./graph";
import { asked as askedOf, stored } from "./prompt/asked";
import { branches, through } from "./prompt/tree";
import { entries, START, type State } from "./state";
import type { Answer, BilensDocument, PromptData } from "./types";

/** Of a state what a document holds; the rest is named. A page that is live can be asked for
 * more. */
export function fitted(state: State, made: BilensDocument): { state: State; dropped: string[] } {
  const prompts = made.sections.flatMap((section) => (section.kind === "prompt" ? [section] : []));
  const chosen = prompts.find((section) => section.id === state.s);
  const dropped = state.s && !chosen ? [`s=${state.s}`] : [];
  const data = (chosen ?? prompts[0])?.data;
  const fit = chosen || !state.s ? state : START;
  if (made.live || !data) return { state: fit, dropped };
  const kept = among(fit, data);
  return { state: kept, dropped: [...dropped, ...lost(fit, kept)] };
}

/** A question that the file does not answer is dropped whole, and what belongs to its answer with
 * it. */
function among(state: State, data: PromptData): State {
  const own = { ...state, prompt: "", out: [] };
  const tokens = data.answers[data.first]?.tokens.length ?? 0;
  if (state.pos !== null && state.pos >= tokens) return { ...START, s: state.s };
  const answer = stored(askedOf(state, data), data);
  return answer ? shownOf(own, answer) : own;
}

/** What of a view an answer has. */
function shownOf(state: State, answer: Answer): State {
  const known = state.open.length ? branches(answer) : new Map<string, unknown>();
  const ids = Object.keys(state.graph).length ? graphIds(answer) : new Set<string>();
  const graph = encodedGraph(decodedGraph(state.graph, (id) => ids.has(id)).state);
  return {
    ...state,
    open: state.open.filter((key) => known.has(key)),
    through: through(answer, state.through).length ? state.through : "",
    path: state.path !== null && state.path < answer.terms.length ? state.path : null,
    head: answer.patterns?.heads.includes(state.head) ? state.head : "",
    layer: answer.pairs?.some((one) => one.layer === state.layer) ? state.layer : "",
    graph,
  };
}

function lost(before: State, after: State): string[] {
  const written = (state: State): string[] =>
    entries(state).map(([key, value]) => `${key}=${value}`);
  const kept = new Set(written(after));
  return written(before).filter((part) => !kept.has(part));
}
