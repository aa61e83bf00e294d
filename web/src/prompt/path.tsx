// One path beside the tree: what it gives, the tokens it starts at, and the attention that it holds
// given.

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { general, percent, signed } from "../numbers";
import type { SetState } from "../store";
import type { Answer, Node } from "../types";
import { Copy, Text } from "../ui";
import { PatternMap } from "./map";
import { type Pattern, pattern } from "./patterns";
import { looks, starts, type Tree, within } from "./tree";

interface Props {
  readonly answer: Answer;
  readonly tree: Tree;
  readonly term: number;
  readonly set: SetState;
}

/** A head on the path, and where it looks. */
interface Look {
  readonly head: string;
  readonly query: number;
  readonly keys: readonly number[];
  readonly pattern: Pattern;
}

const HELD = "Holds given, besides the scales of the norms:";
const LOOKS = "Where its heads look; nothing is held given:";

export function PathCard({ answer, tree, term, set }: Props): JSX.Element {
  const value = answer.terms[term]?.[0] ?? 0;
  const path = tree.path(term);
  const places = useMemo(() => starts(answer)[term] ?? [], [answer, term]);
  const looks = useMemo(() => lookedAt(answer, term), [answer, term]);
  return (
    <aside class="pathcard" aria-label="The chosen path">
      <p>
        <code>
          <Text>{path}</Text>
        </code>
      </p>
      <p>
        <b>{signed(value, 6)}</b>
        {answer.total !== 0 && `, ${percent(value / answer.total)} of the total`}
      </p>
      <p>
        Starts at{" "}
        {places.length
          ? places.map((n) => (
              <button
                type="button"
                class="link"
                key={n}
                onClick={() => set({ through: `@${n}`, path: null })}
              >
                {n} <Text>{answer.tokens[n]?.name ?? ""}</Text>
              </button>
            ))
          : "no token: a bias, or not taken apart to the end"}
      </p>
      {looks.length > 0 && <p class="soft small">{answer.given.length ? HELD : LOOKS}</p>}
      {looks.map((look) => (
        <Given key={`${look.head}@${look.query}`} look={look} answer={answer} set={set} />
      ))}
      <p class="tools">
        <Copy text={tree.plain(term)} name="Copy the path" />
        <button type="button" onClick={() => set({ path: null })}>
          Close
        </button>
      </p>
    </aside>
  );
}

function Given({
  look,
  answer,
  set,
}: {
  look: Look;
  answer: Answer;
  set: Props["set"];
}): JSX.Element {
  const held = useMemo(() => () => look.pattern, [look.pattern]);
  const names = look.keys.map(
    (key) =>
      `${key} ${answer.tokens[key]?.name ?? ""}: ${general(look.pattern.at(look.query, key), 3)}`,
  );
  return (
    <button type="button" class="given" onClick={() => set({ view: "attention", head: look.head })}>
      <PatternMap held={held} size={answer.tokens.length} row={look.query} columns={look.keys} />
      <span>
        <b>{look.head}</b> at {look.query} <Text>{answer.tokens[look.query]?.name ?? ""}</Text>{" "}
        looks at <Text>{names.join(", ")}</Text>
      </span>
    </button>
  );
}

function lookedAt(answer: Answer, term: number): Look[] {
  const seen = new Set<string>();
  return within(answer.nodes, answer.terms[term]?.[1] ?? -1).flatMap((node: Node) => {
    const keys = looks(node);
    const found = keys.length ? pattern(answer.patterns, node.s) : null;
    const key = `${node.s}@${node.t}${keys.join()}`;
    if (!found || seen.has(key)) return [];
    seen.add(key);
    return [{ head: node.s, query: node.t, keys, pattern: found }];
  });
}
