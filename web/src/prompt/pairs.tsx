// What layers multiply: a triangle of pairs, both orders together. A cell leads to its paths.

import type { JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { drawFigure } from "../figure";
import { general, signed } from "../numbers";
import type { State } from "../state";
import type { SetState } from "../store";
import { printable } from "../text";
import type { Answer, PairMatrix } from "../types";
import { Copy, Text } from "../ui";
import { goal, pairFigure, pairValue, strongest } from "./figures";
import { unfoldedPair } from "./tree";

const MOST = 24; // sources of a layer that are drawn at first

interface Props {
  readonly answer: Answer;
  readonly state: State;
  readonly set: SetState;
}

export function PairsPanel({ answer, state, set }: Props): JSX.Element {
  const matrices = answer.pairs ?? [];
  const [all, show] = useState(false);
  const matrix = matrices.find((one) => one.layer === state.layer) ?? largest(matrices);
  if (!matrix) return <p class="soft">No layer of this model multiplies what it reads.</p>;
  const chosen = strongest(matrix, all ? matrix.names.length : MOST);
  const unseen = matrix.others?.count ?? 0;
  const left = matrix.names.length + unseen - chosen.length;
  return (
    <>
      <p class="chooser">
        {matrices.map((one) => (
          <button
            type="button"
            key={one.layer}
            aria-pressed={one === matrix}
            onClick={() => set({ layer: one.layer })}
          >
            {one.layer} <span class="soft">{signed(sum(one))}</span>
          </button>
        ))}
      </p>
      <p class="soft">
        What each pair of things that {matrix.layer} reads adds to <Text>{goal(answer)}</Text>. Pick
        a cell, by Enter too, for the paths that multiply the two.
        {left > 0 && (
          <>
            {" "}
            The {chosen.length} sources that weigh most; the pairs of the other {left} add{" "}
            {general(sum(matrix) - sumOf(matrix, chosen), 4)}.{" "}
            {chosen.length < matrix.names.length && (
              <button type="button" class="link" onClick={() => show(true)}>
                {unseen ? `Show ${matrix.names.length}` : "Show all"}
              </button>
            )}{" "}
            {unseen > 0 && answer.python_pairs && (
              <Copy name="Copy as Python" text={answer.python_pairs} />
            )}
          </>
        )}
      </p>
      <Triangle answer={answer} matrix={matrix} chosen={chosen} set={set} />
    </>
  );
}

function Triangle(props: {
  answer: Answer;
  matrix: PairMatrix;
  chosen: readonly number[];
  set: Props["set"];
}): JSX.Element {
  const { answer, matrix, chosen, set } = props;
  const place = useRef<HTMLDivElement>(null);
  const held = chosen.join();
  const figure = useMemo(() => pairFigure(answer, matrix, chosen), [answer, matrix, held]);
  useEffect(() => {
    if (!place.current) return;
    const height = figure.layout.height ?? 400;
    const spoken = printable(`Pairs of ${matrix.layer} towards ${goal(answer)}: ${told(matrix)}`);
    drawFigure(place.current, figure, {
      spoken,
      height,
      onPick: ({ at: [row = 0, column = 0] }) =>
        set(toPair(answer, matrix, chosen[row] ?? 0, chosen[column] ?? 0)),
    });
  }, [figure]);
  return <div ref={place} class="chart" />;
}

function toPair(answer: Answer, matrix: PairMatrix, one: number, other: number): Partial<State> {
  const [left = "", right = ""] = [matrix.names[one], matrix.names[other]];
  return unfoldedPair(answer, matrix.layer, left, right);
}

const NAMED = 3; // pairs that are spoken

function told(matrix: PairMatrix): string {
  const cells = matrix.values.flatMap((row, n) =>
    row.map((value, m) => ({ name: `${matrix.names[n]} with ${matrix.names[m]}`, value })),
  );
  cells.sort((one, other) => Math.abs(other.value) - Math.abs(one.value));
  return cells
    .slice(0, NAMED)
    .map((cell) => `${cell.name} ${signed(cell.value)}`)
    .join(", ");
}

function largest(matrices: readonly PairMatrix[]): PairMatrix | undefined {
  return [...matrices].sort((one, other) => Math.abs(sum(other)) - Math.abs(sum(one)))[0];
}

/** All that a layer's pairs add, those that are not shown among them. */
function sum(matrix: PairMatrix): number {
  return matrix.values.flat().reduce((one, other) => one + other, matrix.others?.value ?? 0);
}

function sumOf(matrix: PairMatrix, chosen: readonly number[]): number {
  return chosen.reduce(
    (held, row, n) =>
      held + chosen.slice(0, n + 1).reduce((one, other) => one + pairValue(matrix, row, other), 0),
    0,
  );
}
