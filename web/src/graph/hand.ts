// How nodes are pointed at, dragged and walked.

import { dom, isolated } from "../dom";
import { type GraphState, movedBy, type Shift } from "./state";

export const KEYS =
  "Arrow keys move between nodes, Enter opens one, p pins it, g groups the pinned ones, " +
  "h hides it, l labels it, c shows only what it is connected with, Shift and an arrow key move " +
  "it, b puts it back, u undoes. A node can be dragged too.";
const NEAR = 4; // pixels that a pointer may go before it drags
const STEP = 12; // pixels that a key moves a node
const AWAY: Readonly<Record<string, [across: number, down: number]>> = {
  ArrowLeft: [-STEP, 0],
  ArrowRight: [STEP, 0],
  ArrowUp: [0, -STEP],
  ArrowDown: [0, STEP],
};

/** What a hand does to a graph. */
export interface Held {
  readonly state: GraphState;
  focused: string; // the node that Tab comes to
  open(id: string): void;
  /** What keys do to a node. */
  keys(id: string): Readonly<Record<string, () => void>>;
  /** What is said of what is pointed at. */
  lines(target: Element | null): string[];
  /** So many pixels as a part of the drawing. */
  shift(across: number, down: number): Shift;
  move(id: string, across: number, down: number): void;
  /** Draws a state that is not kept. */
  preview(state: GraphState): void;
  /** Keeps where a node was let go: one step from the state `before`. */
  settle(id: string, before: GraphState): void;
}

/** A node under a pressed pointer: where that began, and what the graph was like. */
interface Drag {
  readonly id: string;
  readonly x: number;
  readonly y: number;
  readonly before: GraphState;
  moved: boolean;
}

export class Hand {
  readonly tip = dom("div", { class: "figure-tip", hidden: true });
  private drag: Drag | null = null;

  constructor(
    private readonly place: HTMLElement,
    private readonly held: Held,
  ) {
    place.addEventListener("click", (event) => {
      const id = nodeAt(event);
      if (id && !this.drag?.moved) held.open(id);
      this.drag = null;
    });
    place.addEventListener("pointerdown", (event) => this.take(event));
    place.addEventListener("pointermove", (event) => {
      if (!this.dragged(event)) this.point(event);
    });
    place.addEventListener("pointerup", () => this.drop());
    place.addEventListener("pointercancel", () => this.drop());
    place.addEventListener("pointerleave", () => this.hide());
    place.addEventListener("focusin", (event) => this.point(event));
    place.addEventListener("focusout", () => this.hide());
    place.addEventListener("keydown", (event) => this.key(event));
  }

  hide(): void {
    this.tip.hidden = true;
  }

  /** A node is pressed: it may be clicked, or dragged. */
  private take(event: PointerEvent): void {
    const id = nodeAt(event);
    this.drag = null;
    if (!id || event.button !== 0 || !event.isPrimary) return;
    const { clientX: x, clientY: y } = event;
    this.drag = { id, x, y, before: this.held.state, moved: false };
  }

  /** Whether a node goes with the pointer. */
  private dragged(event: PointerEvent): boolean {
    const { drag } = this;
    if (!drag || !event.buttons) return false;
    const [across, down] = [event.clientX - drag.x, event.clientY - drag.y];
    if (!drag.moved && Math.hypot(across, down) < NEAR) return false;
    if (!drag.moved) this.place.setPointerCapture(event.pointerId);
    drag.moved = true;
    this.hide();
    this.held.preview(movedBy(drag.before, drag.id, this.held.shift(across, down)));
    return true;
  }

  private drop(): void {
    const { drag } = this;
    if (drag?.moved) this.held.settle(drag.id, drag.before);
  }

  private point(event: Event): void {
    const target = event.target instanceof Element ? event.target : null;
    const lines = this.held.lines(target);
    this.tip.hidden = !lines.length;
    if (!lines.length || !target) return;
    this.tip.replaceChildren(...lines.map((line) => dom("div", {}, isolated(line))));
    const frame = this.place.getBoundingClientRect();
    const at = (target.closest("[data-node]") ?? target).getBoundingClientRect();
    const size = this.tip.getBoundingClientRect();
    const middle = event instanceof PointerEvent ? event.clientX : at.left + at.width / 2;
    const top = event instanceof PointerEvent ? event.clientY - 8 : at.top;
    const left = Math.min(middle - frame.left - size.width / 2, frame.width - size.width);
    this.tip.style.left = `${Math.max(0, left)}px`;
    this.tip.style.top = `${Math.max(0, top - frame.top - size.height - 6)}px`;
  }

  private key(event: KeyboardEvent): void {
    const id = nodeAt(event);
    if (!id || event.altKey || event.metaKey || (event.ctrlKey && event.key !== "z")) return;
    const away = event.shiftKey ? AWAY[event.key] : undefined;
    const action = away ? () => this.held.move(id, ...away) : this.held.keys(id)[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    this.held.focused = id;
    action();
  }
}

function nodeAt(event: Event): string {
  const target = event.target instanceof Element ? event.target : null;
  return target?.closest<SVGElement>("[data-node]")?.dataset["node"] ?? "";
}
