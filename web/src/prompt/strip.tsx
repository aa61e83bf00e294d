// A row of tokens, each lit by a value. One stop of the keyboard: arrows move along it.

import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import { signed } from "../numbers";
import { printable } from "../text";
import { Text } from "../ui";

export interface StripOptions {
  readonly label: string;
  readonly tokens: readonly string[];
  readonly values: readonly (number | null)[];
  readonly strength?: boolean; // without a sign: 0 to 1
  readonly picked: number;
  readonly marked?: readonly number[]; // where a chosen path starts
  readonly onPick: (n: number) => void;
  readonly onPoint?: (n: number | null) => void; // pointed at, or walked to
  readonly said?: (n: number) => string; // beside its name
}

const DEEPEST = 68; // % of the full colour, so that the letters stay readable

export function Strip(options: StripOptions): JSX.Element {
  const { tokens, values, picked } = options;
  const [at, move] = useState(picked);
  const place = useRef<HTMLDivElement>(null);
  const largest = options.strength
    ? 1
    : Math.max(...values.map((value) => Math.abs(value ?? 0)), 0);
  const step = (event: KeyboardEvent) => {
    const next = stepped(event.key, at, tokens.length);
    if (next === null) return;
    event.preventDefault();
    move(next);
    (place.current?.children[next] as HTMLElement | undefined)?.focus();
  };
  return (
    <div
      ref={place}
      class="strip"
      role="group"
      aria-label={options.label}
      onKeyDown={step}
      onPointerLeave={() => options.onPoint?.(null)}
    >
      {tokens.map((name, n) => (
        <button
          type="button"
          key={n}
          class={shade(values[n] ?? 0)}
          style={{ "--lit": `${depth(values[n] ?? 0, largest)}%` }}
          tabIndex={n === Math.min(at, tokens.length - 1) ? 0 : -1}
          aria-pressed={n === picked}
          aria-label={`${n}: ${printable(name)}, ${options.said?.(n) ?? said(values[n] ?? null)}`}
          data-marked={options.marked?.includes(n) || undefined}
          onClick={() => {
            move(n);
            options.onPick(n);
          }}
          onFocus={() => {
            move(n);
            options.onPoint?.(n);
          }}
          onBlur={() => options.onPoint?.(null)}
          onPointerEnter={() => options.onPoint?.(n)}
        >
          <Text>{name}</Text>
        </button>
      ))}
    </div>
  );
}

function said(value: number | null): string {
  return value === null ? "no value" : signed(value);
}

/** In which colour a value lights its token. */
export function shade(value: number): string {
  if (value === 0) return "token";
  return value > 0 ? "token up" : "token down";
}

/** How much of that colour there is, in per cent. */
export function depth(value: number, largest: number): number {
  return largest > 0 ? Math.round((DEEPEST * Math.abs(value)) / largest) : 0;
}

function stepped(key: string, at: number, count: number): number | null {
  switch (key) {
    case "ArrowRight":
      return Math.min(at + 1, count - 1);
    case "ArrowLeft":
      return Math.max(at - 1, 0);
    case "Home":
      return 0;
    case "End":
      return count - 1;
    default:
      return null;
  }
}

interface ScaleProps {
  readonly low: string;
  readonly high: string;
  readonly of: "lit" | "shares" | "both"; // cells with words; a picture of shares, of both signs
}

/** How dark is how much. */
export function Scale({ low, high, of }: ScaleProps): JSX.Element {
  const none = of === "both" ? `orange is ${low}, no colour 0` : `no colour is ${low}`;
  return (
    <span class="legend">
      <span>{low}</span>
      <span class={`ramp ${of}`} role="img" aria-label={`${none}, the darkest blue ${high}`} />
      <span>{high}</span>
    </span>
  );
}

/** What the colours mean, and where they end. */
export function Legend({ largest, unit }: { largest: number; unit: string }): JSX.Element {
  return (
    <span class="legend">
      <span>takes away {signed(-largest, 3)}</span>
      <span class="ramp" role="img" aria-label="orange takes away, no colour is 0, blue adds" />
      <span>
        {signed(largest, 3)} adds{unit && ` (${unit})`}
      </span>
    </span>
  );
}
