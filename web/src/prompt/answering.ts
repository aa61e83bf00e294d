// Which answer is shown: one that the file holds, or one that the server is asked for.

import { useEffect, useMemo, useState } from "preact/hooks";
import { ask, refused } from "../live";
import { START, type State } from "../state";
import type { Answer, BilensDocument, PromptData, Question } from "../types";
import { type Asked, asked, stored } from "./asked";

export interface Answering {
  readonly what: Asked;
  readonly answer: Answer | null; // the last there was, while another is asked for
  readonly fits: boolean; // whether it answers what is asked
  readonly waits: boolean;
  readonly error: string;
  readonly again: () => void; // asks once more what went wrong
}

/** What was heard last, and of which question. */
interface Heard {
  readonly key: string;
  readonly answer: Answer | null;
  readonly error: string;
}

/** The answer to what the state asks for, of a file or of a server. */
export function useAnswer(state: State, data: PromptData, made: BilensDocument): Answering {
  const what = asked(state, data);
  const question = questionOf(state, what, data);
  const key = JSON.stringify(question);
  const held = useMemo(() => (own(state, data) ? stored(what, data) : null), [key, data]);
  const [heard, hear] = useState<Heard>(() => first(data));
  const { live } = made;
  const known = heard.key === key;
  useEffect(() => {
    if (!live || held || known) return undefined;
    const stop = new AbortController();
    ask(live, question, stop.signal).then(
      (found) =>
        hear((old) =>
          refused(found)
            ? { key, answer: old.answer, error: found.error }
            : { key, answer: found, error: "" },
        ),
      () => undefined, // another question took its place
    );
    return () => stop.abort();
  }, [key, held, known]);
  const answer = held ?? heard.answer ?? data.answers[data.first] ?? null;
  const answered = Boolean(held) || (known && !heard.error);
  return {
    what,
    answer,
    fits: answered,
    waits: Boolean(live) && !held && !known,
    error: known ? heard.error : "",
    again: () => hear((old) => ({ ...old, key: "" })),
  };
}

/** What was heard before anything was asked: where the page begins with no answer, why. */
function first(data: PromptData): Heard {
  const key = JSON.stringify(questionOf(START, asked(START, data), data));
  return { key: data.error ? key : "", answer: null, error: data.error ?? "" };
}

/** Whether it is the prompt that the file is about, with nothing knocked out. */
function own(state: State, data: PromptData): boolean {
  return (!state.prompt || state.prompt === data.prompt) && !state.out.length;
}

function questionOf(state: State, what: Asked, data: PromptData): Question {
  const other = Boolean(state.prompt) && state.prompt !== data.prompt;
  return {
    prompt: state.prompt || data.prompt,
    position: other ? state.pos : what.position,
    target: (other ? state.target : what.target) || null,
    versus: (other ? state.versus : what.versus) || null,
    knockout: state.out.length ? [...state.out] : null,
  };
}
