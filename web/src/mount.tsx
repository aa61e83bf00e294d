import { render } from "preact";
import { App } from "./app";
import type { BilensDocument } from "./types";

export interface Options {
  whole?: boolean; // the page is the whole of its window: it keeps its state in the address
}

export interface Mounted {
  unmount(): void;
}

/** Draws `made` into `element`. */
export function mount(element: HTMLElement, made: BilensDocument, options: Options = {}): Mounted {
  element.classList.add("bilens");
  element.classList.toggle("whole", options.whole ?? false);
  render(<App made={made} />, element);
  return { unmount: () => render(null, element) };
}
