// Numbers on axes: no SI prefixes, powers of ten written out, a true minus.

import { format } from "d3-format";

const RAISED: Readonly<Record<string, string>> = {
  "-": "⁻",
  "0": "⁰",
  "1": "¹",
  "2": "²",
  "3": "³",
  "4": "⁴",
  "5": "⁵",
  "6": "⁶",
  "7": "⁷",
  "8": "⁸",
  "9": "⁹",
};

/** Ten to a power: 10⁻⁵; the few that are short stand as they are: 0.1, 1, 10, 100. */
export function powerOfTen(exponent: number): string {
  if (exponent >= -1 && exponent <= 3) return String(10 ** exponent).replace("1000", "1,000");
  return `10${raised(exponent)}`;
}

/** Numbers of one axis, `step` apart, all written in the same way. */
export function tickTexts(values: readonly number[], step: number): string[] {
  const largest = Math.max(0, ...values.map(Math.abs));
  if (largest === 0 || (largest >= 1e-3 && largest < 1e6)) {
    const places = Math.max(0, -Math.floor(Math.log10(step || 1) + 1e-9));
    const decimal = format(`,.${places}f`);
    return values.map((value) => minus(decimal(value === 0 ? 0 : value)));
  }
  const exponent = Math.floor(Math.log10(largest));
  const scaled = step / 10 ** exponent;
  const places = Math.max(0, -Math.floor(Math.log10(scaled) + 1e-9));
  return values.map((value) => powered(value, exponent, places));
}

/** A number by one of d3's formats, which are plotly's. */
export function formatted(value: unknown, how: string): string {
  if (typeof value !== "number") return String(value ?? "–");
  return minus(format(how)(value));
}

function powered(value: number, exponent: number, places: number): string {
  if (value === 0) return "0";
  const mantissa = minus((value / 10 ** exponent).toFixed(places));
  return `${mantissa}×10${raised(exponent)}`;
}

function raised(exponent: number): string {
  return [...String(exponent)].map((digit) => RAISED[digit] ?? digit).join("");
}

function minus(text: string): string {
  return text.replace("-", "−");
}
