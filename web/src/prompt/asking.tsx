// What is asked: a prompt, a target and a contrast. Typed where the page is live, picked where it
// is a file.

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { percent } from "../numbers";
import type { State } from "../state";
import type { SetState } from "../store";
import { printable } from "../text";
import type { Answer, Likely, PromptData } from "../types";
import { Text } from "../ui";
import type { Asked } from "./asked";

interface Props {
  readonly data: PromptData;
  readonly answer: Answer | null; // none where a page that is live could not give one yet
  readonly what: Asked;
  readonly live: boolean;
  readonly state: State;
  readonly set: SetState;
}

export function Asking(props: Props): JSX.Element {
  return props.live ? <Typed {...props} /> : <Picked {...props} />;
}

/** Free text: a new prompt starts anew at its last token. */
function Typed({ data, answer, what, state, set }: Props): JSX.Element {
  const [prompt, setPrompt] = useState(state.prompt || data.prompt);
  const [target, setTarget] = useState(state.target);
  const [versus, setVersus] = useState(state.versus);
  const own = what.target || "the likeliest"; // where nothing is typed
  const submit = (event: Event) => {
    event.preventDefault();
    const other = prompt !== (state.prompt || data.prompt);
    set({
      prompt: prompt === data.prompt ? "" : prompt,
      target,
      versus,
      path: null,
      through: "",
      ...(other ? { pos: null, open: [], graph: {} } : {}),
    });
  };
  return (
    <form class="asking" onSubmit={submit}>
      <label class="wide">
        Prompt{" "}
        <textarea
          rows={2}
          value={prompt}
          onInput={(event) => setPrompt(event.currentTarget.value)}
        />
      </label>
      <label>
        Target{" "}
        <input
          value={target}
          placeholder={printable(own)}
          list="bilens-likely"
          onInput={(event) => setTarget(event.currentTarget.value)}
        />
      </label>
      <label>
        instead of{" "}
        <input
          value={versus}
          placeholder={printable((!target && what.versus) || "nothing")}
          list="bilens-likely"
          onInput={(event) => setVersus(event.currentTarget.value)}
        />
      </label>
      <datalist id="bilens-likely">
        {answer?.likely.map((one) => (
          <option key={one.id} value={printable(one.name)} />
        ))}
      </datalist>
      <button type="submit">Ask</button>
    </form>
  );
}

/** What the file holds at this position. */
function Picked({ data, answer, what, set }: Props): JSX.Element | null {
  const here = data.answers.filter((one) => one.position === answer?.position);
  if (!answer || here.length < 2) return null;
  const chosen = here.findIndex(
    (one) => one.target.name === what.target && (one.versus?.name ?? "") === what.versus,
  );
  return (
    <div class="asking">
      <label>
        Explain{" "}
        <select
          value={String(Math.max(chosen, here.indexOf(answer)))}
          onChange={(event) => {
            const one = here[Number(event.currentTarget.value)];
            if (one)
              set({
                pos: one.position,
                target: one.target.name,
                versus: one.versus?.name ?? "",
                path: null,
              });
          }}
        >
          {here.map((one, n) => (
            <option key={n} value={String(n)}>
              {printable(one.target.name)}
              {one.versus ? printable(` instead of ${one.versus.name}`) : ""}
            </option>
          ))}
        </select>
      </label>
    </div>
  );
}

interface LikelyProps {
  readonly answer: Answer;
  readonly set: SetState;
}

/** What the model finds likeliest next. Each can be the target, or what it is held against. */
export function LikelyList({ answer, set }: LikelyProps): JSX.Element {
  return (
    <ol class="likely" aria-label="Likeliest next tokens">
      {answer.likely.map((one) => (
        <One key={one.id} one={one} answer={answer} set={set} />
      ))}
    </ol>
  );
}

function One({
  one,
  answer,
  set,
}: {
  one: Likely;
  answer: Answer;
  set: Props["set"];
}): JSX.Element {
  const { position, target, versus } = answer;
  const chosen = target.id === one.id;
  const against = versus?.id === one.id;
  const name = target.name;
  const spoken = printable(
    `vs ${one.name}: ${against ? "hold it against nothing" : `explain ${name} instead of it`}`,
  );
  return (
    <li>
      <button
        type="button"
        class="pick"
        aria-pressed={chosen}
        style={{ "--share": `${(100 * one.probability).toFixed(1)}%` }}
        onClick={() => set({ pos: position, target: one.name, versus: "", path: null })}
      >
        <Text>{one.name}</Text> <span class="soft">{percent(one.probability)}</span>
      </button>
      {!chosen && (
        <button
          type="button"
          class="against"
          aria-pressed={against}
          aria-label={spoken}
          title={against ? "Hold it against nothing" : "Explain the target instead of this"}
          onClick={() =>
            set({ pos: position, target: name, versus: against ? "" : one.name, path: null })
          }
        >
          vs
        </button>
      )}
    </li>
  );
}
