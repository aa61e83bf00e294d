// Where heads look: all patterns as small pictures, one of them with its tokens, which light what
// they look at.

import type { JSX } from "preact";
import { useMemo, useState } from "preact/hooks";
import { general, signed } from "../numbers";
import type { State } from "../state";
import type { SetState } from "../store";
import { printable } from "../text";
import type { Answer, Patterns } from "../types";
import { Text, Tools } from "../ui";
import { heatFigure } from "./figures";
import { Axes, PatternMap } from "./map";
import { type Pattern, pattern } from "./patterns";
import { Scale, Strip } from "./strip";

interface Props {
  readonly answer: Answer;
  readonly state: State;
  readonly set: SetState;
}

export function AttentionPanel({ answer, state, set }: Props): JSX.Element {
  if (!answer.patterns)
    return (
      <p class="soft">
        Every path of this model is taken through its attention: no pattern is held given.
      </p>
    );
  return <Heads answer={answer} state={state} set={set} patterns={answer.patterns} />;
}

function Heads({ answer, state, set, patterns }: Props & { patterns: Patterns }): JSX.Element {
  const head = patterns.heads.includes(state.head) ? state.head : mostGiven(answer, patterns);
  const held = useMemo(() => pattern(patterns, head), [patterns, head]);
  const pick = useMemo(() => (name: string) => set({ head: name }), [set]);
  const heads = useMemo(
    () =>
      patterns.heads.map((name) => (
        <Small
          key={name}
          name={name}
          patterns={patterns}
          size={answer.tokens.length}
          chosen={name === head}
          pick={pick}
        />
      )),
    [patterns, head, pick],
  );
  return (
    <>
      <p class="soft">
        Patterns are held given: a path says what moves along them, not why they are as they are.
        Pick a head; point at a token, or walk there by arrow keys, to light what it looks at. A
        cell of the large picture leads to the paths that look there.
      </p>
      <div class="maps" role="group" aria-label="Heads">
        {heads}
      </div>
      {held && <Large answer={answer} head={head} held={held} set={set} />}
    </>
  );
}

function Small(props: {
  name: string;
  patterns: Patterns;
  size: number;
  chosen: boolean;
  pick: (name: string) => void;
}): JSX.Element {
  const held = useMemo(
    () => () => pattern(props.patterns, props.name),
    [props.patterns, props.name],
  );
  return (
    <button type="button" aria-pressed={props.chosen} onClick={() => props.pick(props.name)}>
      <PatternMap held={held} size={props.size} />
      <Text>{props.name}</Text>
    </button>
  );
}

function Large(props: {
  answer: Answer;
  head: string;
  held: Pattern;
  set: Props["set"];
}): JSX.Element {
  const { answer, head, held } = props;
  const [pointed, point] = useState<number | null>(null);
  const read = useMemo(() => () => held, [held]);
  const names = answer.tokens.map((token) => token.name);
  const query = pointed ?? answer.position;
  const row = held.row(query, names.length);
  const figure = () =>
    heatFigure({
      title: `Where ${head} looks`,
      unit: "weight",
      strength: held.shares,
      x: "key: the token looked at",
      y: "query: the token that looks",
      values: names.map((_, one) =>
        names.map((__, other) => (other > one ? null : held.at(one, other))),
      ),
      across: names.map((name, n) => `${n} ${name}`),
      down: names.map((name, n) => `${n} ${name}`),
    });
  return (
    <div class="beside even">
      <div>
        <h4>
          {head} from {query} <Text>{names[query] ?? ""}</Text>
        </h4>
        <Strip
          label={`Tokens that ${head} looks at`}
          tokens={names}
          values={row}
          strength={held.shares}
          picked={answer.position}
          said={(n) => `looked at with ${general(held.at(query, n), 3)}`}
          onPick={(n) => point(n)}
          onPoint={(n) => {
            if (n !== null) point(n);
          }}
        />
        <p class="soft" aria-live="polite">
          <Text>{most(row, names)}</Text>
        </p>
        <button
          type="button"
          onClick={() => props.set({ view: "paths", through: head, path: null })}
        >
          Its paths
        </button>
      </div>
      <div>
        <Axes names={names}>
          <PatternMap
            held={read}
            size={names.length}
            row={query}
            onPoint={point}
            onPick={(from, at) =>
              props.set({ view: "paths", through: `${head}@${at}→${from}`, path: null })
            }
          />
        </Axes>
        <p class="soft">
          Weight: <WeightScale held={held} />
        </p>
        <Tools name={`Pattern of ${head}`} figure={figure} />
      </div>
    </div>
  );
}

/** How dark is how much. */
function WeightScale({ held }: { held: Pattern }): JSX.Element {
  if (held.shares) return <Scale low="0" high="1" of="shares" />;
  return <Scale low={signed(-held.end, 3)} high={signed(held.end, 3)} of="both" />;
}

const NAMED = 4; // keys of a row

function most(row: readonly number[], names: readonly string[]): string {
  const order = row
    .map((_, n) => n)
    .sort((one, other) => Math.abs(row[other] ?? 0) - Math.abs(row[one] ?? 0))
    .slice(0, NAMED);
  const looks = order.map((n) => `${n} ${names[n]} (${general(row[n] ?? 0, 3)})`);
  return printable(`Looks most at ${looks.join(", ")}.`);
}

/** The head that the largest path through any holds given. */
function mostGiven(answer: Answer, patterns: Patterns): string {
  const largest = answer.sources
    .filter((source) => patterns.heads.includes(source.name))
    .sort((one, other) => Math.abs(other.direct) - Math.abs(one.direct))[0];
  return largest?.name ?? patterns.heads[0] ?? "";
}
