import { render } from "preact";
import { App } from "./app";
import { keepAddress } from "./address";
import { Store } from "./store";
import type { BilensDocument } from "./types";

export interface Options {
  whole?: boolean; // the page is the whole of its window: it keeps its state in the address
}

export interface Mounted {
  unmount(): void;
}

/** Draws `made` into `element`. */
export function mount(element: HTMLElement, made: BilensDocument, options: Options = {}): Mounted {
  const whole = options.whole ?? false;
  const store = new Store();
  const release = whole ? keepAddress(store, made) : () => undefined;
  element.classList.add("bilens");
  element.classList.toggle("whole", whole);
  element.replaceChildren();
  render(<App made={made} store={store} root={element} />, element);
  return {
    unmount: () => {
      release();
      render(null, element);
    },
  };
}
