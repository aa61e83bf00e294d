// The state of a page, its past and its future. Who draws it listens.

import { useEffect, useState } from "preact/hooks";
import { encode, START, type State } from "./state";

const REMEMBERED = 200; // steps

/** What changes, or what does given what is. */
export type Change = Partial<State> | ((state: State) => Partial<State>);
export type SetState = (change: Change) => void;

export function changed(change: Change, state: State): Partial<State> {
  return typeof change === "function" ? change(state) : change;
}

export class Store {
  private past: State[] = [];
  private future: State[] = [];
  private readonly listeners = new Set<() => void>();
  said = ""; // the last thing worth a word, for who cannot see it too

  constructor(public state: State = START) {}

  /** A step that can be undone. Nothing where nothing changes. */
  set(change: Change): void {
    const next = { ...this.state, ...changed(change, this.state) };
    if (encode(next) === encode(this.state)) return;
    this.past = [...this.past, this.state].slice(-REMEMBERED);
    this.future = [];
    this.become(next);
  }

  say(text: string): void {
    this.said = text;
    this.tell();
  }

  undo(): void {
    const before = this.past.pop();
    if (!before) return;
    this.future.push(this.state);
    this.become(before, "Undone.");
  }

  redo(): void {
    const next = this.future.pop();
    if (!next) return;
    this.past.push(this.state);
    this.become(next, "Done again.");
  }

  /** What came before is no step of the reader's. */
  forget(): void {
    this.past = [];
    this.future = [];
  }

  get canUndo(): boolean {
    return this.past.length > 0;
  }

  get canRedo(): boolean {
    return this.future.length > 0;
  }

  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  private become(state: State, said = ""): void {
    this.state = state;
    this.said = said;
    this.tell();
  }

  private tell(): void {
    for (const listener of this.listeners) listener();
  }
}

/** The store's state, and a drawing anew whenever it changes. */
export function useStore(store: Store): State {
  const [, redraw] = useState(0);
  useEffect(() => store.listen(() => redraw((n) => n + 1)), [store]);
  return store.state;
}
