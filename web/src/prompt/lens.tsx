// What the stream says after each part, at each position: the likeliest token, by the readout alone.

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { general, percent } from "../numbers";
import type { SetState } from "../store";
import { printable } from "../text";
import type { Answer, Lens } from "../types";
import { Text, Tools } from "../ui";
import { goal, lensFigure } from "./figures";

interface Props {
  readonly answer: Answer;
  readonly set: SetState;
}

const WINDOW = 24; // positions side by side; a wider table is slow to lay out

function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, n) => start + n);
}

export function LensPanel({ answer, set }: Props): JSX.Element {
  const { lens } = answer;
  const [at, point] = useState<[number, number] | null>(null);
  const count = answer.tokens.length;
  const [last, move] = useState(Math.min(count, Math.max(WINDOW, answer.position + 1)));
  const shown = range(Math.max(0, last - WINDOW), last);
  if (!lens) return <p class="soft">The stream of this model cannot be read at its parts.</p>;
  return (
    <>
      <p class="soft">
        The likeliest token if the stream were read there, the surer the darker. Pick a cell for what comes
        next at its position.
      </p>
      {count > WINDOW && (
        <p class="chooser">
          <button type="button" disabled={last <= WINDOW} onClick={() => move(Math.max(WINDOW, last - WINDOW))}>Earlier</button>
          <span>positions {shown[0]} to {last - 1} of {count}</span>
          <button type="button" disabled={last >= count} onClick={() => move(Math.min(count, last + WINDOW))}>Later</button>
        </p>
      )}
      <div class="scroll" role="region" aria-label="What the stream says by part and position" tabIndex={0}>
        <table class="lens">
          <thead><tr><th>after</th>{shown.map((n) => <th key={n} aria-current={n === answer.position || undefined}>{n} <Text>{answer.tokens[n]?.name ?? ""}</Text></th>)}</tr></thead>
          <tbody
            onPointerOver={(event) => point(cellOf(event.target))}
            onPointerLeave={() => point(null)}
            onClick={(event) => { const found = cellOf(event.target); if (found) set({ pos: found[1], target: "", versus: "", path: null }); }}
          >
            {lens.places.map((place, n) => (
              <tr key={place}><th scope="row">{place}</th>{shown.map((t) => <Cell key={t} lens={lens} n={n} t={t} />)}</tr>
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

function Cell({ lens, n, t }: { lens: Lens; n: number; t: number }): JSX.Element {
  const sure = lens.probabilities[n]?.[t] ?? 0;
  return <td data-at={`${n},${t}`} style={{ "--lit": `${Math.round(DEEPEST * sure)}%` }}><Text>{lens.says[n]?.[t] ?? ""}</Text></td>;
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
