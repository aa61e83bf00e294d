// Words of a figure: letters as they are, whose markup and templates were meant for plotly.

import { printable } from "../text";
import { formatted } from "./numbers";

const ENTITIES: Record<string, string> = { lt: "<", gt: ">", amp: "&", quot: '"', "#x27": "'" };
const FIELD = /%\{([a-z]+)(?:\[(\d+)\])?(?::([^}]+))?\}/g;

/** A text of a figure, every character visible. */
export function words(text: unknown): string {
  return printable(letters(String(text ?? "")));
}

/** What a trace says of one of its marks, line by line, as its template asks. */
export function said(template: string, values: Readonly<Record<string, unknown>>): string[] {
  const lines = template.replace(/<extra>.*<\/extra>/s, "").split(/<br\s*\/?>/);
  return lines.map((line) => filled(line, values));
}

/** `text`, or its beginning and end where it has more than `longest` characters. */
export function narrowed(text: string, longest: number): string {
  const all = [...text];
  if (all.length <= longest) return text;
  const end = Math.max(0, Math.floor((longest - 1) / 2));
  const start = Math.max(0, longest - end - 1);
  return `${all.slice(0, start).join("")}…${end ? all.slice(-end).join("") : ""}`;
}

function filled(line: string, values: Readonly<Record<string, unknown>>): string {
  let text = "";
  let last = 0;
  for (const field of line.matchAll(FIELD)) {
    text += letters(line.slice(last, field.index)) + told(field, values);
    last = field.index + field[0].length;
  }
  return printable(text + letters(line.slice(last)));
}

function told(
  [, name = "", index, how]: RegExpMatchArray,
  values: Readonly<Record<string, unknown>>,
): string {
  const whole = values[name];
  const value = index !== undefined && Array.isArray(whole) ? whole[Number(index)] : whole;
  if (how !== undefined) return formatted(value, how);
  if (typeof value === "number" && !Number.isInteger(value)) return formatted(value, ".4~g");
  return letters(String(value ?? "–"));
}

function letters(markup: string): string {
  return markup.replace(/&(lt|gt|amp|quot|#x27);/g, (all, name: string) => ENTITIES[name] ?? all);
}
