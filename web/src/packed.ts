// Rows of many numbers, as report/packing.py packs them.

import type { Packed } from "./types";

/** Row `n` of what was packed, or was not. */
export function row(held: number[][] | Packed, n: number): number[] {
  if (Array.isArray(held)) return held[n] ?? [];
  const bytes = atob(held.rows[n] ?? "");
  const found: number[] = [];
  for (let k = 0; 2 * k < bytes.length; k += 1) {
    const unsigned = bytes.charCodeAt(2 * k) | (bytes.charCodeAt(2 * k + 1) << 8);
    found.push(((unsigned << 16) >> 16) * held.scale); // with the sign of sixteen bits
  }
  return found;
}
