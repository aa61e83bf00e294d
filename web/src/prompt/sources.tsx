// What writes to the target: what each part writes itself, beside what the target loses without it.

import type { JSX } from "preact";
import { useMemo, useState } from "preact/hooks";
import { signed } from "../numbers";
import type { State } from "../state";
import type { SetState } from "../store";
import type { Answer, Source } from "../types";
import { Bar, Copy, Scrolled, Text, Tools } from "../ui";
import { sourceFigure } from "./figures";
import { unfolded, unfoldedPair } from "./tree";

const SHOWN = 10; // rows, before the others are asked for

interface Props {
  readonly answer: Answer;
  readonly set: SetState;
  readonly out: ((names: readonly string[]) => void) | null; // knocks out, where the page is live
}

export function Sources(props: Props): JSX.Element {
  const { answer } = props;
  const [more, show] = useState(false);
  const [told, explain] = useState<Source | null>(null);
  const rows = useMemo(() => ranked(answer), [answer]);
  const shown = more ? rows : rows.slice(0, SHOWN);
  const top = (of: (row: Source) => number | null) =>
    Math.max(...rows.map((row) => Math.abs(of(row) ?? 0)), 0) || 1;
  const tops = { direct: top((row) => row.direct), effect: top((row) => row.effect) };
  const measured = rows.some((row) => row.effect !== null);
  return (
    <>
      <Scrolled name="What writes to the target">
        <table class="sources">
          <thead>
            <tr>
              <th>part</th>
              <th class="n" colSpan={2}>
                it writes (direct)
              </th>
              {measured && (
                <>
                  <th class="n" colSpan={2}>
                    lost without it (effect)
                  </th>
                  <th class="n">at its mean</th>
                  <th>do they agree</th>
                </>
              )}
              {props.out && (
                <th>
                  <span class="unseen">knock out</span>
                </th>
              )}
            </tr>
          </thead>
          <tbody>
            {shown.map((row) => (
              <Row
                key={row.name}
                row={row}
                tops={tops}
                measured={measured}
                explain={explain}
                {...props}
              />
            ))}
          </tbody>
        </table>
      </Scrolled>
      {measured && (
        <p class="soft why" aria-live="polite">
          {told?.why ? (
            <>
              <Text>{told.label}</Text>: <Text>{told.why}</Text>
            </>
          ) : (
            "Point at a verdict for why the two agree or not."
          )}
        </p>
      )}
      <Untried answer={answer} />
      {rows.length > SHOWN && (
        <button type="button" class="link" aria-expanded={more} onClick={() => show(!more)}>
          {more ? "Fewer parts" : `All ${rows.length} parts, layers and pairs`}
        </button>
      )}
      <Tools name="Parts" figure={() => sourceFigure(answer, rows)} />
    </>
  );
}

/** Where taking all parts out takes long: which were, and how to have the rest. */
function Untried({ answer }: { answer: Answer }): JSX.Element | null {
  if (!answer.tried) return null;
  const [tried, of] = answer.tried;
  return (
    <p class="soft">
      Effects are told of the {tried} parts that write most, of {of}: all of them, whole layers and
      pairs take longer.{" "}
      {answer.python_effects && <Copy name="Copy as Python" text={answer.python_effects} />}
    </p>
  );
}

interface RowProps extends Props {
  readonly row: Source;
  readonly tops: { direct: number; effect: number };
  readonly measured: boolean;
  readonly explain: (row: Source) => void;
}

function Row({ row, tops, measured, set, out, answer, explain }: RowProps): JSX.Element {
  return (
    <tr>
      <th scope="row">
        <button
          type="button"
          class="link"
          onClick={() => set(toPaths(answer, row.name))}
          title={`The paths of ${row.name}`}
        >
          <code>
            <Text>{row.label}</Text>
          </code>
        </button>
      </th>
      <td class="n">{signed(row.direct)}</td>
      <td class="bars">
        <Bar value={row.direct} top={tops.direct} />
      </td>
      {measured && <Effect row={row} top={tops.effect} explain={explain} />}
      {out && (
        <td>
          {row.effect !== null && (
            <button type="button" onClick={() => out([row.name])}>
              knock out
            </button>
          )}
        </td>
      )}
    </tr>
  );
}

function Effect({
  row,
  top,
  explain,
}: Pick<RowProps, "row" | "explain"> & { top: number }): JSX.Element {
  if (row.effect === null)
    return (
      <>
        <td class="n">–</td>
        <td />
        <td class="n">–</td>
        <td class="soft">not taken out</td>
      </>
    );
  return (
    <>
      <td class="n">{signed(row.effect)}</td>
      <td class="bars">
        <Bar value={row.effect} top={top} hollow />
      </td>
      <td class="n">{row.effect_mean === null ? "–" : signed(row.effect_mean)}</td>
      <td>
        <Verdict row={row} explain={explain} />
      </td>
    </>
  );
}

/** In words; the reason is said below where it is pointed at or focused. */
function Verdict({ row, explain }: Pick<RowProps, "row" | "explain">): JSX.Element {
  const tell = () => explain(row);
  return (
    <button
      type="button"
      class={`link verdict ${row.verdict === "confirmed" ? "good" : "bad"}`}
      title={row.why ?? ""}
      onPointerEnter={tell}
      onFocus={tell}
      onClick={tell}
    >
      {row.verdict === "confirmed" ? "✓" : "✗"} {row.verdict}
    </button>
  );
}

/** The branches of the tree that a part, or a pair, is. */
function toPaths(answer: Answer, name: string): Partial<State> {
  const pair = /^(\w+)\((.+), (.+)\)$/.exec(name);
  if (!pair) return unfolded(answer, name);
  const [, layer = "", left = "", right = ""] = pair;
  return unfoldedPair(answer, layer, left, right);
}

/** The largest first, by what happens without them where that is known. */
function ranked(answer: Answer): Source[] {
  const size = (row: Source) => Math.max(Math.abs(row.direct), Math.abs(row.effect ?? 0));
  return [...answer.sources, ...(answer.cuts ?? [])].sort((one, other) => size(other) - size(one));
}
