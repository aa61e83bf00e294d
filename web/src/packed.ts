// Rows of many numbers, as report/packing.py packs them.

import type { Packed } from "./types";

/** Row `n` of what was packed, or was not. */
export function row(held: number[][] | Packed, n: number): number[] {
  if (Array.isArray(held)) return held[n] ?? [];
  const bytes = Uint8Array.from(atob(held.rows[n] ?? ""), (one) => one.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const count = bytes.length / 2;
  return Array.from({ length: count }, (_, k) => view.getInt16(2 * k, true) * held.scale);
}
