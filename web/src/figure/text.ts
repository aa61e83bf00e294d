// How wide words are, and words that fit.

import { narrowed } from "./words";

/** The width of a text in pixels at a size of letters. */
export type Measure = (text: string, size: number) => number;

const WIDE =
  /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\u{1f300}-\u{1faff}]/u;

/** Where nothing is there to measure with: from the mean width of letters. */
export function estimate(text: string, size: number): number {
  return [...text].reduce((sum, letter) => sum + size * (WIDE.test(letter) ? 1 : 0.57), 0);
}

const MEASURES = new Map<string, Measure>();

/** By the fonts of the page. */
export function measured(family: string): Measure {
  const known = MEASURES.get(family) ?? measuredAnew(family);
  MEASURES.set(family, known);
  return known;
}

function measuredAnew(family: string): Measure {
  const context = document.createElement("canvas").getContext("2d");
  if (!context) return estimate;
  return (text, size) => {
    context.font = `${size}px ${family}`;
    return context.measureText(text).width;
  };
}

/** `text`, or as much of its ends as goes into `room` pixels; nothing where no letter does. */
export function fitted(text: string, room: number, size: number, measure: Measure): string {
  const whole = measure(text, size);
  if (whole <= room) return text;
  let count = Math.floor(([...text].length * room) / whole);
  while (count > 1 && measure(narrowed(text, count), size) > room) count -= 1;
  return count > 1 ? narrowed(text, count) : "";
}

/** `text` in lines of at most `room` pixels, broken at spaces. */
export function wrapped(text: string, room: number, size: number, measure: Measure): string[] {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const longer = lines.length ? `${lines.at(-1)} ${word}` : word;
    if (lines.length && measure(longer, size) <= room) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}
