// The small pieces that all views are made of.

import { type ComponentChildren, createContext, type JSX } from "preact";
import { useContext, useEffect, useRef, useState } from "preact/hooks";
import { copied } from "./copy";
import { figureTable, rowsTable, saveCsv, savePng, saveSvg } from "./export";
import { drawFigure } from "./figure";
import type { Figure } from "./figure/data";
import { shapeOf } from "./figure/still";
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
  const [made, make] = useState(props.open ?? false);
  return (
    <details open={props.open ?? false} onToggle={() => make(true)}>
      <summary>{props.name}</summary>
      {made && props.children}
    </details>
  );
}

/** A figure, drawn once it comes into sight or nothing else is to do. */
export function Plot({ chart }: { chart: Chart }): JSX.Element {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = place.current;
    if (!element) return undefined;
    return soon(element, () =>
      drawFigure(element, chart.figure, { ...chart, spoken: printable(chart.spoken) }),
    );
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
          <thead>
            <tr>
              {columns.map((name) => (
                <th class="n" key={name}>
                  <Text>{name}</Text>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.slice(0, FIRST_ROWS).map((row, n) => (
              <Row key={n} row={row} columns={columns} />
            ))}
          </tbody>
        </table>
        {left > 0 && (
          <p class="soft">
            The first {FIRST_ROWS} of {rows.length} rows.
          </p>
        )}
      </Scrolled>
      <div class="figure-tools">
        <button
          type="button"
          aria-label="Save all numbers as CSV"
          onClick={() => saveCsv(columns.join(" "), rowsTable({ columns, rows }))}
        >
          CSV
        </button>
      </div>
    </Folded>
  );
}

function Row(props: { row: Record<string, Cell>; columns: string[] }): JSX.Element {
  return (
    <tr>
      {props.columns.map((name) => (
        <td class="n" key={name}>
          <Text>{formatted(props.row[name] ?? null)}</Text>
        </td>
      ))}
    </tr>
  );
}

/** The title of the section that something stands in. */
export const Titled = createContext("");

interface ScrolledProps {
  readonly name: string;
  readonly onKeyDown?: (event: KeyboardEvent) => void;
  readonly children: ComponentChildren;
}

/** What may be wider than the page: it scrolls by itself, with the keyboard too. A reader of the
 * screen hears which section's it is. */
export function Scrolled({ name, onKeyDown, children }: ScrolledProps): JSX.Element {
  const title = printable(useContext(Titled));
  return (
    <div
      class="scroll"
      role="region"
      aria-label={title ? `${name}, ${title}` : name}
      tabIndex={0}
      onKeyDown={onKeyDown}
    >
      {children}
    </div>
  );
}

export function Shown({ picture }: { picture: Picture }): JSX.Element {
  return (
    <figure>
      <img src={picture.src} alt={printable(picture.alt)} />
      <figcaption>
        <Text>{picture.caption}</Text>
      </figcaption>
    </figure>
  );
}

/** A bar from the middle: blue to the right adds, orange to the left takes away. */
export function Bar(props: {
  value: number;
  top: number;
  rest?: boolean;
  hollow?: boolean;
}): JSX.Element {
  const width = Math.min(50, (50 * Math.abs(props.value)) / props.top);
  const side = props.value < 0 ? { right: "50%" } : { left: "50%" };
  const kind = [
    "fill",
    props.value < 0 ? "down" : "up",
    props.rest && "rest",
    props.hollow && "hollow",
  ]
    .filter(Boolean)
    .join(" ");
  return (
    <span class="bar" aria-hidden="true">
      <span class={kind} style={{ ...side, width: `${width.toFixed(2)}%` }} />
    </span>
  );
}

/** Buttons that save what a view shows as SVG, PNG and CSV. The figure is made when it is saved. */
export function Tools(props: { name: string; figure: () => Figure }): JSX.Element {
  const { figure } = props;
  const name = printable(props.name);
  return (
    <div class="figure-tools">
      <button
        type="button"
        aria-label={`Save as SVG: ${name}`}
        onClick={() => saveSvg(name, shapeOf(figure()))}
      >
        SVG
      </button>
      <button
        type="button"
        aria-label={`Save as PNG: ${name}`}
        onClick={() => void savePng(name, shapeOf(figure()))}
      >
        PNG
      </button>
      <button
        type="button"
        aria-label={`Save as CSV: ${name}`}
        onClick={() => saveCsv(name, figureTable(figure()))}
      >
        CSV
      </button>
    </div>
  );
}

/** The line of Python that gives what a section shows, to be copied. */
export function AsPython({ line }: { line: string | undefined }): JSX.Element | null {
  return line ? <Copy name="Copy as Python" text={line} /> : null;
}

/** Copies a text, and says so. */
export function Copy({ text, name }: { text: string | (() => string); name: string }): JSX.Element {
  const [done, say] = useState("");
  const act = async () => {
    say(
      (await copied(typeof text === "string" ? text : text()))
        ? "Copied"
        : "This browser did not copy",
    );
    setTimeout(() => say(""), 2000);
  };
  return (
    <button type="button" onClick={() => void act()}>
      <span aria-live="polite">{done || name}</span>
    </button>
  );
}
