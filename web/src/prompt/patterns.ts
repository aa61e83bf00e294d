// Attention weights as they lie in a document: rows of a lower triangle one after another.

import { row } from "../packed";
import type { Patterns } from "../types";

/** One head's weights, by query and key. */
export class Pattern {
  readonly shares: boolean; // of 0 to 1; those of a head without softmax may have either sign
  readonly end: number; // of the scale of its colours

  constructor(private readonly weights: ArrayLike<number>) {
    const [low, high] = ends(weights);
    this.shares = low >= 0 && high <= 1;
    this.end = this.shares ? 1 : Math.max(-low, high);
  }

  at(query: number, key: number): number {
    return key > query ? 0 : (this.weights[(query * (query + 1)) / 2 + key] ?? 0);
  }

  /** What a query looks at. */
  row(query: number, length: number): number[] {
    return Array.from({ length }, (_, key) => this.at(query, key));
  }
}

/** The least and the largest of numbers, as far as they are on either side of 0. */
function ends(weights: ArrayLike<number>): [low: number, high: number] {
  let [low, high] = [0, 0];
  for (let n = 0; n < weights.length; n += 1) {
    const weight = weights[n] ?? 0;
    if (weight < low) low = weight;
    if (weight > high) high = weight;
  }
  return [low, high];
}

/** A head's pattern; null where the document has none of it. */
export function pattern(patterns: Patterns | null, head: string): Pattern | null {
  const n = patterns?.heads.indexOf(head) ?? -1;
  return patterns && n >= 0 ? new Pattern(row(patterns.weights, n)) : null;
}
