// The tools above a graph.

import { button, dom } from "../dom";
import { fullScreen } from "../export";
import { percent } from "../numbers";
import { KEYS } from "./hand";
import type { GraphState } from "./state";

/** What the tools do, and what it depends on. */
export interface Workshop {
  readonly box: HTMLElement; // all of the graph
  readonly title: string;
  readonly state: GraphState;
  readonly undoes: boolean; // whether there is a step to undo
  readonly returns: boolean; // whether there is an answer behind a file
  change(part: Partial<GraphState>, step?: string): void;
  undo(): void;
  back(): void;
  save(): void;
  load(file: File): void;
  saveAs(kind: "SVG" | "PNG" | "CSV"): void;
}

/** A bar, whose tool that has the keyboard keeps it when the bar is made anew. */
export class Tools {
  readonly bar = dom("div", {
    class: "graph-bar",
    role: "group",
    "aria-label": "The graph's tools",
  });
  private readonly share = dom("input", {
    type: "range",
    min: "1",
    max: "100",
    step: "1",
    "aria-label": "How much of all paths is drawn",
    "data-tool": "share",
  });

  constructor(private readonly shop: Workshop) {
    this.share.addEventListener("input", () =>
      shop.change({ share: Number(this.share.value) / 100 }, "share"),
    );
  }

  draw(): void {
    const active = document.activeElement;
    const held =
      active instanceof HTMLElement && this.bar.contains(active)
        ? active.dataset["tool"]
        : undefined;
    this.share.value = String(Math.round(100 * this.shop.state.share));
    this.bar.replaceChildren(
      dom(
        "label",
        { class: "graph-share" },
        "Paths drawn ",
        this.share,
        dom("output", {}, percent(this.shop.state.share, 3)),
      ),
      ...this.seen(),
      ...this.steps(),
      ...this.files(),
      ...fullScreen(this.shop.box, this.shop.title),
      dom("details", { class: "graph-keys" }, dom("summary", {}, "Keys"), KEYS),
    );
    if (held) this.bar.querySelector<HTMLElement>(`[data-tool="${held}"]`)?.focus();
  }

  /** What of the graph is seen. */
  private seen(): HTMLElement[] {
    const { shop } = this;
    const { only, centre, hidden } = shop.state;
    return [
      tool("Only pinned", () => shop.change({ only: !only }), { "aria-pressed": String(only) }),
      ...(centre ? [tool("Show all", () => shop.change({ centre: "" }))] : []),
      ...(hidden.length
        ? [tool(`Show ${hidden.length} hidden`, () => shop.change({ hidden: [] }))]
        : []),
    ];
  }

  private steps(): HTMLElement[] {
    const { shop } = this;
    return [
      // always there, so that nothing jumps when a node is let go
      tool("Put back", () => shop.change({ moved: {} }), {
        title: "All nodes that were moved to their own places",
        ...unless(Object.keys(shop.state.moved).length > 0),
      }),
      tool("Undo", () => shop.undo(), unless(shop.undoes)),
      ...(shop.returns ? [tool("Back to the answer", () => shop.back())] : []),
    ];
  }

  private files(): HTMLElement[] {
    const { shop } = this;
    const file = dom("input", {
      type: "file",
      accept: ".json,application/json",
      hidden: true,
      onchange: () => {
        const [chosen] = file.files ?? [];
        if (chosen) shop.load(chosen);
      },
    });
    return [
      tool("Save graph", () => shop.save(), {
        title: "As JSON in Neuronpedia's layout, with pins, groups and labels",
      }),
      tool("Open graph", () => file.click()),
      tool("SVG", () => shop.saveAs("SVG"), { "aria-label": "SVG: save the graph" }),
      tool("PNG", () => shop.saveAs("PNG"), { "aria-label": "PNG: save the graph" }),
      tool("CSV", () => shop.saveAs("CSV"), { "aria-label": "CSV: save the links" }),
      file,
    ];
  }
}

function tool(
  name: string,
  action: () => void,
  more: Record<string, string | boolean> = {},
): HTMLButtonElement {
  return button(name, action, { "data-tool": name, ...more });
}

/** Whether it can be pressed. */
function unless(there: boolean): { disabled?: true } {
  return there ? {} : { disabled: true };
}
