// The one module behind all three doors: a file or a served page, which holds its document, and a
// notebook, whose widget hands it over.

import { mount, type Mounted } from "./mount";
import type { BilensDocument } from "./types";

export { mount };

/** What anywidget calls. */
export function render({ model, el }: { model: Widget; el: HTMLElement }): () => void {
  return mount(el, model.get("document")).unmount;
}

interface Widget {
  get(name: "document"): BilensDocument;
}

export default { render };

/** The document that a page holds, drawn into its body. */
function start(): Mounted | null {
  const held = globalThis.document?.getElementById("bilens-document");
  const place = globalThis.document?.getElementById("bilens-page");
  if (!held || !place) return null;
  return mount(place, JSON.parse(held.textContent ?? "") as BilensDocument, { whole: true });
}

start();
