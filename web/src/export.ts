// Files of what is drawn and listed: SVG, PNG and CSV, made in the page, without a network.

import { button, dom } from "./dom";
import type { Cell, Figure, Trace } from "./figure/data";
import { INK } from "./figure/data";
import { words } from "./figure/words";
import { type Shape, svgFile } from "./svg";
import { printable } from "./text";

const SHARP = 2; // pixels of a PNG for one of the screen
const LONGEST = 60; // characters of a file's name

/** Buttons that save a figure: as SVG, PNG and CSV; and one that lets `box` fill the screen. */
export function exportTools(
  name: string,
  shape: () => Shape | null,
  figure: Figure,
  box: HTMLElement,
): HTMLElement {
  const tools = dom("div", { class: "figure-tools" });
  const title = words(figure.layout.title?.text) || name;
  const drawn = (save: (name: string, shape: Shape) => void) => (): void => {
    const now = shape();
    if (now) save(title, now);
  };
  tools.append(
    ...fullScreen(box, title),
    button("SVG", drawn(saveSvg), { "aria-label": `SVG: save ${title}` }),
    button(
      "PNG",
      drawn((file, now) => void savePng(file, now)),
      { "aria-label": `PNG: save ${title}` },
    ),
    button("CSV", () => saveCsv(title, figureTable(figure)), {
      "aria-label": `CSV: save ${title}`,
    }),
  );
  return tools;
}

/** A button that lets `box` fill the screen, and not any more; none where that is not allowed. */
export function fullScreen(box: HTMLElement, title: string): HTMLElement[] {
  if (!document.fullscreenEnabled) return [];
  const turn = (): void =>
    void (document.fullscreenElement === box ? document.exitFullscreen() : box.requestFullscreen());
  return [button("Full screen", turn, { "aria-label": `Full screen: ${title}` })];
}

/** A table: its columns, and its rows in their order. */
export interface Table {
  columns: readonly string[];
  rows: readonly (readonly unknown[])[];
}

export function saveSvg(name: string, shape: Shape): void {
  save(`${fileName(name)}.svg`, new Blob([svgFile(shape, INK)], { type: "image/svg+xml" }));
}

export async function savePng(name: string, shape: Shape): Promise<void> {
  save(`${fileName(name)}.png`, await png(shape));
}

export function saveCsv(name: string, table: Table): void {
  save(`${fileName(name)}.csv`, new Blob([csv(table)], { type: "text/csv" }));
}

export function saveJson(name: string, value: unknown): void {
  save(`${fileName(name)}.json`, new Blob([JSON.stringify(value)], { type: "application/json" }));
}

/** A drawing as pixels, twice as fine as a screen's, on white. */
export function png(shape: Shape): Promise<Blob> {
  const [wide, high] = [Number(shape.attributes["width"]), Number(shape.attributes["height"])];
  const address = URL.createObjectURL(
    new Blob([svgFile(shape, "#333333")], { type: "image/svg+xml" }),
  );
  return new Promise<Blob>((resolve, reject) => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [wide * SHARP, high * SHARP];
      const context = canvas.getContext("2d");
      if (!context) return reject(new Error("this browser draws no images"));
      context.fillStyle = "#ffffff";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the image is too large"))));
    };
    image.onerror = () => reject(new Error("this browser does not read the drawing"));
    image.src = address;
  }).finally(() => URL.revokeObjectURL(address));
}

/** A table as RFC 4180 has it: cells with commas, quotes or line ends in quotes. */
export function csv({ columns, rows }: Table): string {
  return [columns, ...rows].map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

/** A result's rows by the names of their columns, every character of a text visible. */
export function rowsTable({
  columns,
  rows,
}: {
  columns: readonly string[];
  rows: readonly Readonly<Record<string, unknown>>[];
}): Table {
  const shown = (value: unknown): unknown => (typeof value === "string" ? printable(value) : value);
  return {
    columns: columns.map(printable),
    rows: rows.map((row) => columns.map((name) => shown(row[name]))),
  };
}

/** The numbers that a figure draws, one mark a row. */
export function figureTable(figure: Figure): Table {
  if (figure.data.some((trace) => trace.type === "heatmap")) return cellTable(figure);
  const errors = figure.data.some((trace) => trace.error_y);
  const columns = [
    "trace",
    heading(figure, "xaxis", "x"),
    heading(figure, "yaxis", "y"),
    ...(errors ? ["±"] : []),
    "says",
  ];
  const rows = figure.data.flatMap((trace, n) => markRows(figure, trace, n, errors));
  return { columns, rows };
}

function markRows(figure: Figure, trace: Trace, n: number, errors: boolean): unknown[][] {
  const count = Math.max(trace.x?.length ?? 0, trace.y?.length ?? 0);
  return Array.from({ length: count }, (_, m) => {
    const place = [
      named(figure, "xaxis", trace.x?.[m] ?? m),
      named(figure, "yaxis", trace.y?.[m] ?? null),
    ];
    const error = errors ? [trace.error_y?.array[m] ?? null] : [];
    const own = trace.customdata?.[m];
    const says = (Array.isArray(own) ? own : own === undefined ? [] : [own]).map(words).join("; ");
    return [trace.name ? words(trace.name) : n, ...place, ...error, says];
  });
}

function cellTable(figure: Figure): Table {
  const maps = figure.data.filter((trace) => trace.type === "heatmap");
  const heads = figure.layout.annotations ?? [];
  const unit = words(maps[0]?.colorbar?.title?.text) || "value";
  const rows = maps.flatMap((trace, n) =>
    (trace.z ?? []).flatMap((row, r) =>
      row.map((value, c) => {
        const names = (trace.customdata?.[r] as readonly unknown[] | undefined)?.[c];
        const [down, across] = Array.isArray(names) ? names : [r, c];
        return [words(heads[n]?.text ?? n), words(down), words(across), value];
      }),
    ),
  );
  return {
    columns: ["map", heading(figure, "yaxis", "row"), heading(figure, "xaxis", "column"), unit],
    rows,
  };
}

function heading(figure: Figure, axis: "xaxis" | "yaxis", otherwise: string): string {
  return words(figure.layout[axis]?.title?.text) || otherwise;
}

/** The name of a place on an axis, where it has one. */
function named(figure: Figure, name: "xaxis" | "yaxis", value: Cell): Cell {
  const axis = figure.layout[name];
  const n = typeof value === "number" ? (axis?.tickvals?.indexOf(value) ?? -1) : -1;
  const text = n >= 0 ? axis?.ticktext?.[n] : undefined;
  return typeof value === "string" || text !== undefined ? words(text ?? value) : value;
}

function cell(value: unknown): string {
  const text = value === null || value === undefined ? "" : String(value);
  // what a spreadsheet would run as a formula is text
  const plain = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(plain) ? `"${plain.replace(/"/g, '""')}"` : plain;
}

/** Letters that any system takes in a file's name. */
export function fileName(title: string): string {
  const plain = title
    .normalize("NFKD")
    .replace(/[^\w.+-]+/g, "-")
    .replace(/^[-.]+|[-.]+$/g, "");
  return `bilens-${plain.slice(0, LONGEST) || "figure"}`;
}

function save(name: string, blob: Blob): void {
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  [link.href, link.download] = [address, name];
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
