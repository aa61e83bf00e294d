// What the stream says after each part, at each position: the likeliest token, by the readout
// alone.

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { general, percent } from "../numbers";
import type { SetState } from "../store";
import { printable } from "../text";
import type { Answer, Lens } from "../types";
import { Scrolled, Text, Tools } from "../ui";
import { goal, lensFigure } from "./figures";
import { depth, Scale } from "./strip";

interface Props {
  readonly answer: Answer;
  readonly set: SetState;
}

const WINDOW = 24; // positions side by side; a wider table is slow to lay out

function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, n) => start + n);
}

export function LensPanel({ answer, set }: Props): JSX.Element {
  if (!answer.lens)
    return <p class="soft">The stream of this model cannot be read at its parts.</p>;
  return (
    <>
      <p class="soft">
        The likeliest token if the stream were read there, the surer the darker:{" "}
        <Scale low="0 %" high="100 %" of="lit" />. Pick a cell for what comes next at its position,
        or walk there by arrow keys and press Enter.
      </p>
      <LensTable
        answer={answer}
        lens={answer.lens}
        pick={(pos) => set({ pos, target: "", versus: "", path: null })}
      />
      <Tools name="What the stream says" figure={() => lensFigure(answer, answer.lens as Lens)} />
    </>
  );
}

interface TableProps {
  readonly answer: Answer;
  readonly lens: Lens;
  readonly pick: (position: number) => void;
}

function LensTable({ answer, lens, pick }: TableProps): JSX.Element {
  const [at, point] = useState<At | null>(null);
  const count = answer.tokens.length;
  const [last, move] = useState(Math.min(count, Math.max(WINDOW, answer.position + 1)));
  const shown = range(Math.max(0, last - WINDOW), last);
  const key = (event: KeyboardEvent) => {
    if (event.key === "Enter" && at) pick(at[1]);
    else if (STEPS[event.key]) point(walked(at, event.key, answer, lens, shown));
    else return;
    event.preventDefault();
  };
  return (
    <>
      {count > WINDOW && <Window first={shown[0] ?? 0} last={last} count={count} move={move} />}
      <Scrolled
        name="What the stream says by part and position; arrow keys go from cell to cell"
        onKeyDown={key}
      >
        <table class="lens">
          <thead>
            <tr>
              <th>after</th>
              {shown.map((n) => (
                <th key={n} aria-current={n === answer.position || undefined}>
                  {n} <Text>{answer.tokens[n]?.name ?? ""}</Text>
                </th>
              ))}
            </tr>
          </thead>
          <tbody
            onPointerOver={(event) => point(cellOf(event.target))}
            onPointerLeave={() => point(null)}
            onClick={(event) => {
              const found = cellOf(event.target);
              if (found) pick(found[1]);
            }}
          >
            {lens.places.map((place, n) => (
              <tr key={place}>
                <th scope="row">{place}</th>
                {shown.map((t) => (
                  <Cell key={t} lens={lens} n={n} t={t} chosen={at?.[0] === n && at[1] === t} />
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </Scrolled>
      <p class="soft told" aria-live="polite">
        {at
          ? told(answer, lens, at)
          : `Point at a cell for the value of ${printable(goal(answer))} there, and for the rank ` +
            "of what the model says in the end."}
      </p>
    </>
  );
}

function Window(props: {
  first: number;
  last: number;
  count: number;
  move: (last: number) => void;
}): JSX.Element {
  const { first, last, count, move } = props;
  return (
    <p class="chooser">
      <button
        type="button"
        disabled={first === 0}
        onClick={() => move(Math.max(WINDOW, last - WINDOW))}
      >
        Earlier
      </button>
      <span>
        positions {first} to {last - 1} of {count}
      </span>
      <button
        type="button"
        disabled={last >= count}
        onClick={() => move(Math.min(count, last + WINDOW))}
      >
        Later
      </button>
    </p>
  );
}

type At = [place: number, position: number];

const STEPS: Readonly<Record<string, At>> = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};

/** The next cell: at first the last part at the answer's position. */
function walked(
  at: At | null,
  key: string,
  answer: Answer,
  lens: Lens,
  shown: readonly number[],
): At {
  const [down, right] = at ? (STEPS[key] ?? [0, 0]) : [0, 0];
  const [n, t] = at ?? [lens.places.length - 1, answer.position];
  return within([n + down, t + right], lens.places.length, shown);
}

/** The nearest cell that is shown. */
function within([n, t]: At, places: number, shown: readonly number[]): At {
  const [first = 0, last = 0] = [shown[0], shown.at(-1)];
  return [Math.min(places - 1, Math.max(0, n)), Math.min(last, Math.max(first, t))];
}

function Cell({
  lens,
  n,
  t,
  chosen,
}: {
  lens: Lens;
  n: number;
  t: number;
  chosen: boolean;
}): JSX.Element {
  const sure = lens.probabilities[n]?.[t] ?? 0;
  return (
    <td
      data-at={`${n},${t}`}
      class={chosen ? "chosen" : ""}
      style={{ "--lit": `${depth(sure, 1)}%` }}
    >
      <Text>{lens.says[n]?.[t] ?? ""}</Text>
    </td>
  );
}

function cellOf(target: EventTarget | null): At | null {
  const at =
    target instanceof Element ? target.closest<HTMLElement>("[data-at]")?.dataset["at"] : undefined;
  const [n, t] = at?.split(",").map(Number) ?? [];
  return n === undefined || t === undefined ? null : [n, t];
}

/** A cell in words. Ranks count from 1, and are those of what the last place says. */
export function told(answer: Answer, lens: Lens, [n, t]: At): string {
  const end = lens.says.at(-1)?.[t] ?? "";
  const value = general(lens.values[n]?.[t] ?? 0, 4);
  const sure = percent(lens.probabilities[n]?.[t] ?? 0);
  return printable(
    `After ${lens.places[n]} at ${t} ${answer.tokens[t]?.name}: ` +
      `${lens.says[n]?.[t]} with ${sure}; ${goal(answer)} has ${value}; ` +
      `what the model says here in the end, ${end}, is rank ${lens.ranks[n]?.[t]}.`,
  );
}
