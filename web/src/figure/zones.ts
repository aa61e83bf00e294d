// What can be pointed at, or walked through by keys: marks one by one, and the cells of heat maps.

import type { Box } from "./place";

/** One mark: where it is in pixels, which it is of its trace, and what it says. */
export interface Spot extends Box {
  readonly trace: number;
  readonly at: readonly number[]; // its number, or its row and column
  readonly lines: readonly string[];
}

export type Step = "left" | "right" | "up" | "down";

export interface Zone {
  readonly count: number;
  spot(n: number): Spot;
  /** Which is at a pixel, and how far from it: none is -1. */
  hit(x: number, y: number): { n: number; away: number };
  /** Which comes next: null where that is outside. */
  next(n: number, step: Step): number | null;
}

const NEAR = 24; // pixels around a point that are still its own

/** Bars and points, in their order; `lying` where they go down. */
export class Marks implements Zone {
  constructor(
    private readonly spots: readonly Spot[],
    private readonly lying: boolean,
  ) {}

  get count(): number {
    return this.spots.length;
  }

  spot(n: number): Spot {
    return this.spots[n] as Spot;
  }

  hit(x: number, y: number): { n: number; away: number } {
    let best = { n: -1, away: NEAR };
    this.spots.forEach((spot, n) => {
      const away = Math.hypot(outside(x, spot.x, spot.wide), outside(y, spot.y, spot.high));
      if (away < best.away) best = { n, away };
    });
    return best;
  }

  next(n: number, step: Step): number | null {
    const forward = this.lying ? step === "down" : step === "right";
    const back = this.lying ? step === "up" : step === "left";
    const other = n + Number(forward) - Number(back);
    return (forward || back) && other >= 0 && other < this.count ? other : null;
  }
}

/** The cells of a heat map, of which only those asked for are made. */
export class Cells implements Zone {
  constructor(
    private readonly box: Box,
    private readonly rows: number,
    private readonly columns: number,
    private readonly flipped: { x: boolean; y: boolean },
    private readonly trace: number,
    private readonly lines: (row: number, column: number) => string[],
  ) {}

  get count(): number {
    return this.rows * this.columns;
  }

  spot(n: number): Spot {
    const [row, column] = this.cell(n);
    return {
      ...this.place(n),
      trace: this.trace,
      at: [row, column],
      lines: this.lines(row, column),
    };
  }

  /** Where a cell is. */
  place(n: number): Box {
    const [row, column] = this.cell(n);
    const { x, y, wide, high } = this.box;
    const size = { wide: wide / this.columns, high: high / this.rows };
    const across = this.flipped.x ? this.columns - 1 - column : column;
    const down = this.flipped.y ? this.rows - 1 - row : row;
    return { x: x + across * size.wide, y: y + down * size.high, ...size };
  }

  private cell(n: number): [row: number, column: number] {
    return [Math.floor(n / this.columns), n % this.columns];
  }

  hit(x: number, y: number): { n: number; away: number } {
    const { box } = this;
    const across = Math.floor(((x - box.x) / box.wide) * this.columns);
    const down = Math.floor(((y - box.y) / box.high) * this.rows);
    if (across < 0 || down < 0 || across >= this.columns || down >= this.rows)
      return { n: -1, away: NEAR };
    const column = this.flipped.x ? this.columns - 1 - across : across;
    const row = this.flipped.y ? this.rows - 1 - down : down;
    return { n: row * this.columns + column, away: 0 };
  }

  next(n: number, step: Step): number | null {
    const across = (this.flipped.x ? -1 : 1) * (Number(step === "right") - Number(step === "left"));
    const down = (this.flipped.y ? -1 : 1) * (Number(step === "down") - Number(step === "up"));
    const column = (n % this.columns) + across;
    const row = Math.floor(n / this.columns) + down;
    const inside = column >= 0 && row >= 0 && column < this.columns && row < this.rows;
    return inside ? row * this.columns + column : null;
  }
}

function outside(value: number, from: number, size: number): number {
  return Math.max(from - value, 0, value - from - size);
}
