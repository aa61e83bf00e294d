// The one module behind all three doors: a file or a served page, which holds its document, and a
// notebook, whose widget hands it over.

import { mount, type Mounted } from "./mount";
import type { Answer, BilensDocument, Question } from "./types";

export { mount };

/** What anywidget calls. The kernel is asked what a served page asks its server. */
export function render({ model, el }: { model: Widget; el: HTMLElement }): () => void {
  const made = model.get("document");
  return mount(el, {
    ...made,
    live: { ask: (question, signal) => askKernel(model, question, signal) },
  }).unmount;
}

interface Widget {
  get(name: "document"): BilensDocument;
  send(content: { id: number; question: Question }): void;
  on(event: "msg:custom", hear: (reply: Reply) => void): void;
  off(event: "msg:custom", hear: (reply: Reply) => void): void;
}

interface Reply {
  id: number;
  answer: Answer | { error: string };
}

let asked = 0; // questions, which answers are told apart by

function askKernel(
  model: Widget,
  question: Question,
  signal: AbortSignal,
): Promise<Reply["answer"]> {
  asked += 1;
  const id = asked;
  return new Promise((resolve, reject) => {
    const hear = (reply: Reply): void => {
      if (reply.id !== id) return;
      model.off("msg:custom", hear);
      resolve(reply.answer);
    };
    signal.addEventListener("abort", () => {
      model.off("msg:custom", hear);
      reject(signal.reason as Error);
    });
    model.on("msg:custom", hear);
    model.send({ id, question });
  });
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
