// A latent of a dictionary: what it fires at and writes for, its histogram, and the passages it
// fires in.

import { Fragment, type JSX } from "preact";
import { useState } from "preact/hooks";
import { general, percent } from "../numbers";
import { depth, shade } from "../prompt/strip";
import { printable } from "../text";
import type { FeatureData, Passage } from "../types";
import { AsPython, NumbersTable, Plot, Text } from "../ui";

const KINDS: Readonly<Record<string, string>> = { top: "Strongest", random: "From weak to strong" };
const FIRST = 6; // tokens of a list

export function FeatureView({ data }: { data: FeatureData }): JSX.Element {
  const kinds = Object.keys(KINDS).filter((kind) => data.examples.some((one) => one.kind === kind));
  const [kind, choose] = useState(kinds[0] ?? "");
  return (
    <>
      <p>
        <Text>{data.text}</Text> <AsPython line={data.python} />
      </p>
      <dl>
        {data.words
          .filter((one) => one.tokens.length)
          .map((one) => (
            <Words key={one.name} {...one} />
          ))}
      </dl>
      <Plot chart={data.chart} />
      {kinds.length > 1 && (
        <p role="group" aria-label="Which passages">
          {kinds.map((one) => (
            <button type="button" key={one} aria-pressed={one === kind} onClick={() => choose(one)}>
              {KINDS[one]}
            </button>
          ))}
        </p>
      )}
      <ol class="passages">
        {data.examples
          .filter((one) => one.kind === kind)
          .map((one, n) => (
            <Line key={`${kind} ${n}`} one={one} largest={data.largest} />
          ))}
      </ol>
      <NumbersTable columns={data.columns} rows={data.rows} />
    </>
  );
}

/** Tokens with their numbers: the first of them, all on pointing. */
function Words({ name, unit, tokens, values }: FeatureData["words"][number]): JSX.Element {
  const told = (n: number): string =>
    unit.startsWith("share") ? percent(values[n] ?? 0) : general(values[n] ?? 0, 3);
  const all = tokens.map((token, n) => `${printable(token)} ${told(n)}`).join(", ");
  return (
    <div title={`${unit}: ${all}`}>
      <dt>{name}</dt>
      <dd>
        {tokens.slice(0, FIRST).map((token, n) => (
          <Fragment key={n}>
            <span class="word">
              <code>
                <Text>{token}</Text>
              </code>{" "}
              <span class="soft">{told(n)}</span>
            </span>{" "}
          </Fragment>
        ))}
        <span class="soft small">{unit}</span>
      </dd>
    </div>
  );
}

/** A passage, lit by how active the latent is; the token it is about has a frame. */
function Line({ one, largest }: { one: Passage; largest: number }): JSX.Element {
  const top = Math.abs(largest);
  return (
    <li>
      <div class="passage">
        {one.tokens.map((token, n) => {
          const value = one.activations[n] ?? 0;
          const kind = shade(value);
          return (
            <span
              key={n}
              class={n === one.at ? `${kind} about` : kind}
              style={{ "--lit": `${depth(Math.min(Math.abs(value), top), top)}%` }}
              title={`${printable(token)}: ${general(value, 3)}`}
            >
              <Text>{token}</Text>
            </span>
          );
        })}
      </div>
      <div class="soft small">
        {general(one.activations[one.at] ?? 0, 3)} at {one.position} of text {one.text}
        {one.next !== null && (
          <>
            ; next{" "}
            <code>
              <Text>{one.next}</Text>
            </code>
            {chance(one)}
          </>
        )}
      </div>
    </li>
  );
}

function chance({ p, p_without }: Passage): string {
  if (p === null) return "";
  const without = p_without === null ? "" : `, without it ${general(p_without, 3)}`;
  return `: p ${general(p, 3)}${without}`;
}
