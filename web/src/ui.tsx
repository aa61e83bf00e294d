// The small pieces that all views are made of.

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { drawFigure } from "./figure";
import { formatted } from "./numbers";
import { printable } from "./text";
import type { Cell, Chart, Numbers, Picture } from "./types";
import { soon } from "./when";

const FIRST_ROWS = 200; // of a table

/** Text from outside: every character visible, and its direction of writing ends with it. */
export function Text({ children }: { children: string | number }): JSX.Element {
  return <bdi>{printable(String(children))}</bdi>;
}

/** What is folded until it is asked for. Its content is made then. */
export function Folded(props: {
  name: ComponentChildren;
  open?: boolean;
  children: ComponentChildren;
}): JSX.Element {
  return (
    <details open={props.open ?? false}>
      <summary>{props.name}</summary>
      {props.children}
    </details>
  );
}

/** A figure, drawn once it comes into sight or nothing else is to do. */
export function Plot({ chart }: { chart: Chart }): JSX.Element {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = place.current;
    if (!element) return undefined;
    return soon(element, () => drawFigure(element, chart.figure, { ...chart, spoken: printable(chart.spoken) }));
  }, [chart]);
  return <div ref={place} class="chart" style={{ minHeight: `${chart.height}px` }} />;
}

/** The numbers behind a figure. */
export function NumbersTable({ columns, rows }: Numbers): JSX.Element {
  const left = rows.length - FIRST_ROWS;
  return (
    <Folded name="The numbers">
      <Scrolled name="The numbers">
        <table>
          <thead><tr>{columns.map((name) => <th class="n" key={name}><Text>{name}</Text></th>)}</tr></thead>
          <tbody>{rows.slice(0, FIRST_ROWS).map((row, n) => <Row key={n} row={row} columns={columns} />)}</tbody>
        </table>
        {left > 0 && <p class="soft">The first {FIRST_ROWS} of {rows.length} rows.</p>}
      </Scrolled>
    </Folded>
  );
}

function Row(props: { row: Record<string, Cell>; columns: string[] }): JSX.Element {
  return (
    <tr>
      {props.columns.map((name) => <td class="n" key={name}><Text>{formatted(props.row[name] ?? null)}</Text></td>)}
    </tr>
  );
}

/** What may be wider than the page: it scrolls by itself, with the keyboard too. */
export function Scrolled(props: { name: string; children: ComponentChildren }): JSX.Element {
  return <div class="scroll" role="region" aria-label={props.name} tabIndex={0}>{props.children}</div>;
}

export function Shown({ picture }: { picture: Picture }): JSX.Element {
  return (
    <figure>
      <img src={picture.src} alt={printable(picture.alt)} />
      <figcaption><Text>{picture.caption}</Text></figcaption>
    </figure>
  );
}
