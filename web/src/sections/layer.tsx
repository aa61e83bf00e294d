// What a layer looks for towards what was asked: its eigenvectors and gates as tokens, and the pairs
// of tokens that it multiplies.

import { type ComponentChildren, Fragment, type JSX } from "preact";
import { general, percent, signed } from "../numbers";
import type { LayerData, LayerSection, Lying, Words } from "../types";
import { Bar, Plot, Scrolled, Text } from "../ui";
import { ChartView } from "./chart";

export function LayerSectionView({ data }: { data: LayerSection }): JSX.Element {
  return (
    <>
      <ChartView data={data} />
      <h3>Its eigenvectors, as tokens</h3>
      <HowFar />
      <Vectors data={data} />
      {data.gates.length > 0 && (
        <>
          <h3>Its gates, as tokens</h3>
          <p class="soft small">
            λ (v·x)² − μ (w·x)² = (a·x)(b·x): the strongest eigenvectors of either sign pair up as a
            product of two. It adds where both sides have one sign, takes away where they differ.
            The share is of ‖Q‖².
          </p>
          <Gates data={data} />
        </>
      )}
      {data.map && (
        <>
          <h3>The pairs of tokens that it multiplies</h3>
          <p class="soft small">
            What two tokens add together, both orders, beyond each by itself: of all pairs those
            tokens that are in the largest, in the order of the first eigenvector.
          </p>
          <Plot chart={data.map} />
        </>
      )}
      {data.note && (
        <p class="soft">
          <Text>{data.note}</Text>
        </p>
      )}
    </>
  );
}

/** What the numbers beside tokens are. */
export function HowFar(): JSX.Element {
  return (
    <p class="soft small">
      How far a token lies is v·x where the stream is its embedding alone, the layer's norm with its
      scale included; it gives λ (v·x)².
    </p>
  );
}

/** A line for each eigenvector: its λ, and the tokens that lie most along it to either side. */
export function Vectors({ data }: { data: LayerData }): JSX.Element {
  const top = Math.max(...data.vectors.map((one) => Math.abs(one.value)), 0) || 1;
  return (
    <Table name={`Eigenvectors of ${data.layer}`} kind="vectors" first="λ">
      {data.vectors.map((one, n) => (
        <tr key={n}>
          <td class="n">{signed(one.value)}</td>
          <td>
            <Bar value={one.value} top={top} />
          </td>
          <Sides lying={one} />
        </tr>
      ))}
    </Table>
  );
}

function Gates({ data }: { data: LayerSection }): JSX.Element {
  return (
    <Table name={`Gates of ${data.layer}`} kind="" first="share">
      {data.gates.map((gate, n) => (
        <Fragment key={n}>
          <tr>
            <td class="n">{percent(gate.share)}</td>
            <th scope="row">a</th>
            <Sides lying={gate.a} />
          </tr>
          <tr>
            <td />
            <th scope="row">b</th>
            <Sides lying={gate.b} />
          </tr>
        </Fragment>
      ))}
    </Table>
  );
}

interface TableProps {
  readonly name: string;
  readonly kind: string;
  readonly first: string; // what its first column says
  readonly children: ComponentChildren;
}

/** Lines of which each ends in the tokens along a direction and against it. */
function Table({ name, kind, first, children }: TableProps): JSX.Element {
  return (
    <Scrolled name={name}>
      <table class={`lying ${kind}`}>
        <thead>
          <tr>
            <th class="n">{first}</th>
            <td />
            <th>along it</th>
            <th>against it</th>
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </Scrolled>
  );
}

function Sides({ lying }: { lying: Lying }): JSX.Element {
  return (
    <>
      <td>
        <Several words={lying.plus} />
      </td>
      <td>
        <Several words={lying.minus} />
      </td>
    </>
  );
}

function Several({ words }: { words: Words }): JSX.Element {
  return (
    <>
      {words.tokens.map((token, n) => (
        <span class="word" key={n}>
          <code>
            <Text>{token}</Text>
          </code>{" "}
          <span class="soft">{general(words.values[n] ?? 0, 3)}</span>{" "}
        </span>
      ))}
    </>
  );
}
