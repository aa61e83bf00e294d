// A head's pattern as a picture: dark where it looks, orange where its weight is negative; queries
// go down, keys across.

import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Text } from "../ui";
import { inSight } from "../when";
import type { Pattern } from "./patterns";

// of the largest weights: blue, green and red, as pixels lie in memory
const DARK = 0x915a00;
const NEGATIVE = 0x005ed5;
const TICKS = 16; // tokens beside a picture at most

export function PatternMap(props: {
  held: () => Pattern | null; // read when it comes into sight
  size: number;
  row?: number | null;
  columns?: readonly number[];
  onPoint?: (query: number) => void;
  onPick?: (query: number, key: number) => void;
}): JSX.Element {
  const { held, size } = props;
  const place = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const canvas = place.current;
    return canvas ? inSight(canvas, () => paint(canvas, held(), size)) : undefined;
  }, [held, size]);
  const percent = (n: number) => `${(100 * n) / size}%`;
  const step = percent(1);
  return (
    <span
      class="map"
      aria-hidden="true"
      onPointerMove={(event) => props.onPoint?.(cellAt(event, size).query)}
      onClick={(event) => {
        const { query, key } = cellAt(event, size);
        if (key <= query) props.onPick?.(query, key);
      }}
    >
      <canvas ref={place} width={1} height={1} />
      {props.row != null && <span class="row" style={{ top: percent(props.row), height: step }} />}
      {props.columns?.map((column) => (
        <span
          key={column}
          class="cell"
          style={{ left: percent(column), top: percent(props.row ?? 0), width: step, height: step }}
        />
      ))}
    </span>
  );
}

/** A picture with its axes: which tokens look, down, and which are looked at, across. */
export function Axes(props: { names: readonly string[]; children: JSX.Element }): JSX.Element {
  return (
    <div class="axes" aria-hidden="true">
      <span class="axis down">query ↓: the token that looks</span>
      <Ticks names={props.names} side="top" />
      {props.children}
      <Ticks names={props.names} side="left" />
      <span class="axis">key →: the token looked at</span>
    </div>
  );
}

/** The tokens by their places, or evenly spaced ones of many. */
function Ticks({ names, side }: { names: readonly string[]; side: "top" | "left" }): JSX.Element {
  const step = Math.ceil(names.length / TICKS) || 1;
  return (
    <span class={`ticks ${side}`}>
      {names.map(
        (name, n) =>
          n % step === 0 && (
            <span key={n} style={{ [side]: `${(100 * (n + 0.5)) / names.length}%` }}>
              {n} <Text>{name}</Text>
            </span>
          ),
      )}
    </span>
  );
}

function cellAt(
  event: MouseEvent & { currentTarget: HTMLElement },
  size: number,
): { query: number; key: number } {
  const { left, top, width, height } = event.currentTarget.getBoundingClientRect();
  const place = (part: number) => Math.min(size - 1, Math.max(0, Math.floor(part * size)));
  return {
    query: place((event.clientY - top) / height),
    key: place((event.clientX - left) / width),
  };
}

function paint(canvas: HTMLCanvasElement, pattern: Pattern | null, size: number): void {
  const context = canvas.getContext("2d");
  if (!context || !pattern) return;
  [canvas.width, canvas.height] = [size, size];
  const image = context.createImageData(size, size);
  const pixels = new Uint32Array(image.data.buffer);
  for (let query = 0; query < size; query += 1) {
    for (let key = 0; key <= query; key += 1) {
      const weight = pattern.at(query, key);
      const depth = Math.round((255 * Math.abs(weight)) / pattern.end);
      pixels[query * size + key] = (weight < 0 ? NEGATIVE : DARK) + 0x1000000 * depth;
    }
  }
  context.putImageData(image, 0, 0);
}
