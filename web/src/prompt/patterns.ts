// Attention weights as they lie in a document: rows of a lower triangle one after another.

import { row } from "../packed";
import type { Patterns } from "../types";

/** One head's weights, by query and key. */
export class Pattern {
  constructor(private readonly weights: ArrayLike<number>) {}

  at(query: number, key: number): number {
    return key > query ? 0 : (this.weights[(query * (query + 1)) / 2 + key] ?? 0);
  }

  /** What a query looks at. */
  row(query: number, length: number): number[] {
    return Array.from({ length }, (_, key) => this.at(query, key));
  }
}

/** A head's pattern; null where the document has none of it. */
export function pattern(patterns: Patterns | null, head: string): Pattern | null {
  const n = patterns?.heads.indexOf(head) ?? -1;
  return patterns && n >= 0 ? new Pattern(row(patterns.weights, n)) : null;
}
