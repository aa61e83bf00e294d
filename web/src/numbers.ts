// How numbers are written: as Python's %g does, so that the page and a terminal say the same.

import type { Cell } from "./types";

/** `value` with `digits` significant digits, as `f"{value:.{digits}g}"`. */
export function general(value: number, digits = 6): string {
  if (!Number.isFinite(value)) return String(value);
  if (value === 0) return "0";
  const [mantissa = "", exponent = "0"] = value.toExponential(digits - 1).split("e");
  const power = Number(exponent);
  if (power < -4 || power >= digits) return `${trimmed(mantissa)}e${signedPower(power)}`;
  return trimmed(value.toFixed(digits - 1 - power));
}

/** `value` with its sign, as `f"{value:+.{digits}g}"`. */
export function signed(value: number, digits = 4): string {
  return value < 0 ? general(value, digits) : `+${general(value, digits)}`;
}

export function percent(share: number, digits = 3): string {
  return `${general(100 * share, digits)} %`;
}

/** A cell of a table. */
export function formatted(cell: Cell): string {
  if (cell === null) return "–";
  if (typeof cell === "boolean") return cell ? "yes" : "no";
  if (typeof cell === "string") return cell;
  return Number.isInteger(cell) ? String(cell) : general(cell);
}

function trimmed(digits: string): string {
  return digits.includes(".") ? digits.replace(/\.?0+$/, "") : digits;
}

function signedPower(power: number): string {
  return `${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}
