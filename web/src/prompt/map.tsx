// A head's pattern as a small picture: dark where it looks; queries go down, keys across.

import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { inSight } from "../when";
import type { Pattern } from "./patterns";

const DARK = 0x915a00; // of a weight of 1: blue, green and red, as pixels lie in memory

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
      const weight = Math.min(1, Math.abs(pattern.at(query, key)));
      pixels[query * size + key] = DARK + 0x1000000 * Math.round(255 * weight);
    }
  }
  context.putImageData(image, 0, 0);
}
