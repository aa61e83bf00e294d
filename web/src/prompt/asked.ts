// Which answer a state asks for, and what to say where a page does not hold it.

import type { State } from "../state";
import type { Answer, Model, PromptData } from "../types";

/** What is asked: the position, and the tokens by name; "" is the likeliest, or none. */
export interface Asked {
  readonly position: number;
  readonly target: string;
  readonly versus: string;
}

const LAST = -1; // position

export function asked(state: State, data: PromptData): Asked {
  const first = data.answers[data.first];
  if (!first) return { position: state.pos ?? LAST, target: state.target, versus: state.versus };
  const other = state.pos !== null && state.pos !== first.position;
  const own = !state.target && !other; // nothing chosen: as the file was made
  return {
    position: state.pos ?? first.position,
    target: own ? first.target.name : state.target,
    versus: state.versus || (own ? (first.versus?.name ?? "") : ""),
  };
}

/** The answer that a file holds to what is asked. */
export function stored(what: Asked, data: PromptData): Answer | null {
  const here = data.answers.filter((answer) => answer.position === what.position);
  if (!what.target) return here.find((answer) => isLikeliest(answer)) ?? here[0] ?? null;
  return (
    here.find(
      (answer) => answer.target.name === what.target && (answer.versus?.name ?? "") === what.versus,
    ) ?? null
  );
}

function isLikeliest(answer: Answer): boolean {
  return !answer.versus && answer.target.id === answer.likely[0]?.id;
}

/** The line of Python that answers what a page does not hold. */
export function pythonFor(what: Asked, prompt: string, model: Model | null | undefined): string {
  const loaded = model?.name ? `bilens.load(${literal(model.name)})` : "model";
  const target = what.target ? literal(typed(what.target)) : "None";
  const goal = what.versus ? `(${target}, ${literal(typed(what.versus))})` : target;
  return `ex = bilens.expand(${loaded}, ${literal(prompt)}, ${goal}, position=${what.position})`;
}

/** A token as a person writes it: its id where its name says it. */
function typed(name: string): string | number {
  const id = /^.*#(\d+)$/.exec(name);
  if (id?.[1]) return Number(id[1]);
  return name.replaceAll("␣", " ").replaceAll("⏎", "\n").replaceAll("⇥", "\t");
}

/** A value as Python writes it. */
function literal(value: string | number): string {
  if (typeof value === "number") return String(value);
  const quoted = JSON.stringify(value.toWellFormed()).slice(1, -1).replaceAll('\\"', '"');
  return `'${quoted.replaceAll("'", "\\'")}'`;
}
