// What the stream says after each part, at each position: the likeliest token, by the readout alone.

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { general, percent } from "../numbers";
import type { State } from "../state";
import { printable } from "../text";
import type { Answer, Lens } from "../types";
import { Text, Tools } from "../ui";
import { goal, lensFigure } from "./figures";

interface Props {
  readonly answer: Answer;
  readonly set: (part: Partial<State>) => void;
}

export function LensPanel({ answer, set }: Props): JSX.Element {
  const { lens } = answer;
  const [at, point] = useState<[number, number] | null>(null);
  if (!lens) return <p class="soft">The stream of this model cannot be read at its parts.</p>;
  return (
    <>
      <p class="soft">
        The likeliest token if the stream were read there, the surer the darker. Pick a cell for what comes
        next at its position.
      </p>
      <div class="scroll" role="region" aria-label="What the stream says by part and position" tabIndex={0}>
        <table class="lens">
          <thead><tr><th>after</th>{answer.tokens.map((token, n) => <th key={n} aria-current={n === answer.position || undefined}>{n} <Text>{token.name}</Text></th>)}</tr></thead>
          <tbody
            onPointerOver={(event) => point(cellOf(event.target))}
            onPointerLeave={() => point(null)}
            onClick={(event) => { const found = cellOf(event.target); if (found) set({ pos: found[1] }); }}
          >
            {lens.places.map((place, n) => (
              <tr key={place}><th scope="row">{place}</th>{lens.says[n]?.map((said, t) => <Cell key={t} lens={lens} n={n} t={t} said={said} />)}</tr>
            ))}
          </tbody>
        </table>
      </div>
      <p class="soft" aria-live="polite">{at ? told(answer, lens, at) : `Point at a cell for the rank and value of ${printable(goal(answer))} there.`}</p>
      <Tools name="What the stream says" figure={() => lensFigure(answer, lens)} />
    </>
  );
}

const DEEPEST = 68; // % of the full colour

function Cell({ lens, n, t, said }: { lens: Lens; n: number; t: number; said: string }): JSX.Element {
  const sure = lens.probabilities[n]?.[t] ?? 0;
  return <td data-at={`${n},${t}`} style={{ "--lit": `${Math.round(DEEPEST * sure)}%` }}><Text>{said}</Text></td>;
}

function cellOf(target: EventTarget | null): [number, number] | null {
  const at = target instanceof Element ? target.closest<HTMLElement>("[data-at]")?.dataset["at"] : undefined;
  const [n, t] = at?.split(",").map(Number) ?? [];
  return n === undefined || t === undefined ? null : [n, t];
}

function told(answer: Answer, lens: Lens, [n, t]: [number, number]): string {
  const rank = (lens.ranks[n]?.[t] ?? 0) + 1;
  const value = general(lens.values[n]?.[t] ?? 0, 4);
  const sure = percent(lens.probabilities[n]?.[t] ?? 0);
  return printable(`After ${lens.places[n]} at ${t} ${answer.tokens[t]?.name}: ${lens.says[n]?.[t]} with ${sure}; ${goal(answer)} has ${value}, rank ${rank}.`);
}
