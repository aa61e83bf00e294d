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
  const [told, explain] = useState<Reason | null>(null);
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
            {measured && (
              <tr>
                <td colSpan={3} />
                <th scope="colgroup" colSpan={3}>
                  zero in its place
                </th>
                <th scope="colgroup" colSpan={3}>
                  its mean in its place
                </th>
                {props.out && <td />}
              </tr>
            )}
            <tr>
              <th>part</th>
              <th class="n" colSpan={2}>
                it writes (direct)
              </th>
              {measured && (
                <>
                  <th class="n" colSpan={2}>
                    lost (effect)
                  </th>
                  <th>do they agree</th>
                  <th class="n">direct</th>
                  <th class="n">lost (effect)</th>
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
              <Text>{told.name}</Text>, {told.way} in its place, {told.verdict}:{" "}
              <Text>{told.why}</Text>
            </>
          ) : (
            "Point at a verdict for why direct and effect agree or not."
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
  readonly explain: (reason: Reason) => void;
}

/** Why direct and effect agree or not, one way. */
interface Reason {
  readonly name: string;
  readonly way: string;
  readonly verdict: string;
  readonly why: string;
}

type EffectProps = Pick<RowProps, "row" | "explain"> & { readonly top: number };
type VerdictProps = Reason & Pick<RowProps, "explain">;

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

function Effect({ row, top, explain }: EffectProps): JSX.Element {
  if (row.effect === null)
    return (
      <>
        <td class="n">–</td>
        <td />
        <td class="soft">not taken out</td>
        <td class="n">–</td>
        <td class="n">–</td>
        <td />
      </>
    );
  return (
    <>
      <td class="n">{signed(row.effect)}</td>
      <td class="bars">
        <Bar value={row.effect} top={top} hollow />
      </td>
      <td>
        <Verdict
          name={row.label}
          way="zero"
          verdict={row.verdict ?? ""}
          why={row.why ?? ""}
          explain={explain}
        />
      </td>
      <AtMean row={row} explain={explain} />
    </>
  );
}

/** The same with its mean in its place, where that is another thing than itself. */
function AtMean({ row, explain }: Pick<RowProps, "row" | "explain">): JSX.Element {
  const told = (value: number | null) => (value === null ? "–" : signed(value));
  return (
    <>
      <td class="n">{told(row.direct_mean)}</td>
      <td class="n">{told(row.effect_mean)}</td>
      <td>
        {row.verdict_mean !== null && (
          <Verdict
            name={row.label}
            way="its mean"
            verdict={row.verdict_mean}
            why={row.why_mean ?? ""}
            explain={explain}
          />
        )}
      </td>
    </>
  );
}

/** In words; the reason is said below where it is pointed at or focused. */
/** Of each verdict its mark and its colour. */
const MARKS: Readonly<Record<string, readonly [string, string]>> = {
  confirmed: ["✓", "good"],
  "nothing either way": ["–", ""],
};

function Verdict({ name, way, verdict, why, explain }: VerdictProps): JSX.Element {
  const tell = () => explain({ name, way, verdict, why });
  const [mark, colour] = MARKS[verdict] ?? ["✗", "bad"];
  return (
    <button
      type="button"
      class={`link verdict ${colour}`}
      title={why}
      onPointerEnter={tell}
      onFocus={tell}
      onClick={tell}
    >
      {mark} {verdict}
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
