// The node–link view of an answer: what writes to the target, what goes along each link, and which
// pairs layers multiply. Nodes are walked by arrow keys, opened, pinned, grouped, hidden and named.

import { button, dom } from "./dom";
import { saveCsv, saveJson, savePng, saveSvg } from "./export";
import { measured } from "./figure/text";
import { type GraphNode, idsOf, type Material, material, TARGET } from "./graph/data";
import { said, type Sketch, sketch } from "./graph/draw";
import { fileOf, read, tableOf } from "./graph/file";
import { Hand, type Held, KEYS } from "./graph/hand";
import { neighbour, type Way } from "./graph/layout";
import { Names } from "./graph/names";
import { type Actions, panel } from "./graph/panel";
import { type Shown, shown } from "./graph/shown";
import {
  FULL,
  type GraphState,
  grouped,
  groupNumber,
  labelled,
  movedBy,
  type Shift,
  START,
  toggled,
  ungrouped,
} from "./graph/state";
import { Tools, type Workshop } from "./graph/tools";
import { percent, signed } from "./numbers";
import { element } from "./svg";
import { printable } from "./text";
import type { Answer } from "./types";

export { decoded, encoded, type GraphState, START } from "./graph/state";

export interface GraphOptions {
  state?: GraphState;
  onState?: (state: GraphState) => void; // whenever the reader changed something
  onPath?: (term: number) => void; // a path was asked for, by its number among the answer's terms
}

const UNDONE = 100; // steps
const PAGES = new WeakMap<HTMLElement, GraphView>();

/** Which ids a graph of `answer` has, for states that come from an address. */
export function graphIds(answer: Answer): Set<string> {
  return idsOf(material(answer));
}

/** Draws the graph of `answer` into `element`, in place of what was there. */
export function drawGraph(element: HTMLElement, answer: Answer, options: GraphOptions = {}): void {
  PAGES.get(element)?.end();
  PAGES.set(element, new GraphView(element, answer, options));
}

class GraphView implements Actions, Held, Workshop {
  state: GraphState;
  focused = TARGET; // the node that Tab comes to
  private material: Material;
  private past: { state: GraphState; focused: string }[] = [];
  shown: Shown;
  private sketch: Sketch | null = null;
  private readonly place = dom("div", { class: "graph-place" });
  private readonly told = dom("p", { class: "graph-told", role: "status" });
  private readonly side = dom("div", { class: "graph-side" });
  private readonly hand = new Hand(this.place, this);
  private readonly tools: Tools;
  private readonly observer = new ResizeObserver(() => this.resized());
  private width = 0;

  constructor(
    readonly box: HTMLElement,
    readonly answer: Answer,
    private readonly options: GraphOptions,
  ) {
    this.material = material(answer);
    this.state = options.state ?? START;
    this.shown = shown(this.material, this.state);
    box.classList.add("graph");
    this.tools = new Tools(this);
    const drawing = dom("div", { class: "graph-drawing" }, this.place, this.hand.tip);
    box.replaceChildren(this.tools.bar, this.told, drawing, this.side);
    this.resized();
    this.observer.observe(box);
  }

  end(): void {
    this.observer.disconnect();
  }

  private resized(): void {
    const width = Math.max(280, Math.floor(this.box.clientWidth || 900));
    if (width === this.width) return;
    this.width = width;
    this.draw();
  }

  // What changes it.

  /** A new state, which can be undone; moves of the slider are one step together. */
  change(part: Partial<GraphState>, step = ""): void {
    const before = this.past.at(-1)?.state;
    const sliding = step === "share" && before && { ...before, share: this.state.share };
    if (!sliding || JSON.stringify(sliding) !== JSON.stringify(this.state))
      this.past.push({ state: this.state, focused: this.focused });
    this.past = this.past.slice(-UNDONE);
    this.set({ ...this.state, ...part });
  }

  private set(state: GraphState): void {
    this.state = state;
    this.shown = shown(this.material, state);
    this.draw();
    this.options.onState?.(state);
  }

  get undoes(): boolean {
    return this.past.length > 0;
  }

  undo(): void {
    const before = this.past.pop();
    if (!before) return;
    this.focused = before.focused;
    this.set(before.state);
  }

  open(id: string): void {
    this.focused = id;
    this.change({ open: this.state.open === id || id === TARGET ? "" : id });
  }

  pin(id: string): void {
    if (id !== TARGET) this.change({ pinned: toggled(this.state.pinned, id) });
  }

  hide(id: string): void {
    if (id === TARGET) return;
    const next = this.beside(id, "left") ?? this.beside(id, "right") ?? this.beside(id, "up");
    this.change({
      hidden: [...this.state.hidden, id],
      open: this.state.open === id ? "" : this.state.open,
    });
    this.focused = next ?? TARGET;
    this.speakAll();
    this.focus();
  }

  centre(id: string): void {
    this.change({ centre: this.state.centre === id || id === TARGET ? "" : id });
  }

  /** The pinned nodes, and `id`, under one name. */
  group(id: string): void {
    const ids = [...new Set([...this.state.pinned, ...(id === TARGET ? [] : [id])])];
    if (ids.length < 2 && groupNumber(id) < 0)
      return this.say("Pin two nodes or more first (p), then group them.");
    this.ask("Name of the group", "", (name) =>
      this.change(grouped(this.state, ids, name || "group")),
    );
  }

  ungroup(id: string): void {
    this.change(ungrouped(this.state, id));
  }

  /** A node put elsewhere, by so many pixels of the drawing. */
  move(id: string, across: number, down: number): void {
    this.change(movedBy(this.state, id, this.shift(across, down)));
  }

  shift(across: number, down: number): Shift {
    const { width, height } = this.sketch?.places ?? { width: 1, height: 1 };
    return [(FULL * across) / width, (FULL * down) / height];
  }

  private putBack(id: string): void {
    const { [id]: _, ...moved } = this.state.moved;
    this.change({ moved });
  }

  label(id: string): void {
    if (id === TARGET) return;
    const node = this.shown.whole.nodes.get(id);
    this.ask("Label", node ? this.names.name(node) : "", (text) =>
      this.change(labelled(this.state, id, text)),
    );
  }

  /** A line to write in, in the list's place. */
  private ask(what: string, before: string, done: (text: string) => void): void {
    const input = dom("input", {
      type: "text",
      value: before,
      maxlength: "120",
      "aria-label": what,
    });
    const close = (): void => this.draw();
    const form = dom(
      "form",
      { class: "graph-ask" },
      dom("label", {}, `${what} `, input),
      dom("button", { type: "submit" }, "Keep"),
      button("Leave", close),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      done(input.value.trim());
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      event.stopPropagation();
    });
    this.side.prepend(form);
    input.focus();
    input.select();
  }

  private say(text: string): void {
    this.told.replaceChildren(text);
  }

  // What is seen.

  get names(): Names {
    return new Names(this.shown.whole.nodes, this.state.labels, this.material.tokens);
  }

  private draw(): void {
    const held =
      this.box.contains(document.activeElement) && !this.tools.bar.contains(document.activeElement);
    const { graph } = this.shown;
    if (!graph.nodes.has(this.focused))
      this.focused = graph.nodes.has(this.state.open) ? this.state.open : TARGET;
    this.paint();
    this.hand.hide();
    this.tools.draw();
    this.tell();
    this.side.replaceChildren(...panel(this, this));
    if (held) this.focus();
  }

  /** The drawing alone. */
  private paint(): void {
    const { graph } = this.shown;
    const look = {
      width: this.width,
      measure: measured(getComputedStyle(this.box).fontFamily),
      tokens: this.material.tokens,
      open: graph.nodes.has(this.state.open) ? this.state.open : "",
      pinned: new Set(this.state.pinned),
      moved: this.state.moved,
      name: this.names.name,
    };
    this.sketch = sketch(graph, look);
    const svg = element(this.sketch.shape);
    svg.setAttribute("role", "group");
    const counts = `${graph.nodes.size} nodes, ${graph.links.size} links`;
    const target = printable(this.material.target);
    svg.setAttribute("aria-label", `Graph of what writes to ${target}: ${counts}. ${KEYS}`);
    // at first the target, which is at the end
    const before = this.place.childElementCount ? this.place.scrollLeft : Number.MAX_SAFE_INTEGER;
    this.place.replaceChildren(svg);
    this.place.scrollLeft = before;
    this.speakAll();
  }

  private speakAll(): void {
    for (const node of this.place.querySelectorAll<SVGGElement>("[data-node]")) this.speak(node);
  }

  /** A node as a button for who cannot see it; Tab comes to one of them, arrow keys to the
   * others. */
  private speak(made: SVGGElement): void {
    const id = made.dataset["node"] ?? "";
    const node = this.shown.graph.nodes.get(id);
    if (!node) return;
    const marks = [
      this.state.pinned.includes(id) ? "pinned" : "",
      this.state.open === id ? "open" : "",
    ].filter(Boolean);
    made.setAttribute("role", "button");
    made.setAttribute("tabindex", id === this.focused ? "0" : "-1");
    made.setAttribute("aria-label", [...this.said(node), ...marks].join(", "));
  }

  private said(node: GraphNode): string[] {
    return said(node, this.names);
  }

  private focus(): void {
    this.place.querySelector<SVGGElement>('[tabindex="0"]')?.focus({ preventScroll: false });
  }

  /** What is drawn, and that the rest is here. */
  private tell(): void {
    const { value, rest, paths, smaller, size } = this.shown;
    const { total, leftOut, target, remainder } = this.material;
    const others = [
      smaller ? `${smaller.toLocaleString("en")} smaller` : "",
      leftOut ? `${leftOut.toLocaleString("en")} not kept, ${signed(remainder, 6)}` : "",
    ].filter(Boolean);
    const unit = this.isFile ? "links" : "paths";
    const left = `${signed(rest, 7)}${others.length ? ` (${others.join("; ")})` : ""}`;
    const name = printable(target);
    const closes = Number.isFinite(total)
      ? `${signed(value, 7)} of ${name}; the rest, ${left}; together ${signed(total, 7)}.`
      : `${name}.`;
    const count = `${paths.length.toLocaleString("en")} ${unit}`;
    this.say(`Shown: ${count}, ${percent(size)} of the sizes of all: ${closes}`);
  }

  get isFile(): boolean {
    return !this.material.paths.some((path) => path.number >= 0);
  }

  get path(): Actions["path"] {
    return this.options.onPath;
  }

  // How it is saved.

  get title(): string {
    return `graph of ${printable(this.material.target)}`;
  }

  save(): void {
    saveJson(this.fileName, fileOf(this.material, this.shown, this.state));
  }

  saveAs(kind: "SVG" | "PNG" | "CSV"): void {
    const { sketch, fileName } = this;
    if (kind === "CSV") saveCsv(fileName, tableOf(this.shown.graph, this.names));
    else if (sketch) void (kind === "SVG" ? saveSvg : savePng)(fileName, sketch.shape);
  }

  private get fileName(): string {
    return `graph ${this.material.target}`;
  }

  async load(file: File): Promise<void> {
    try {
      const { material: made, state } = read(await file.text());
      this.past = [];
      this.material = this.sameGraph(made) ? this.material : made;
      this.set(state);
    } catch (error) {
      this.say(
        `${printable(file.name)} is no graph that this page reads: ${printable(String(error))}`,
      );
    }
  }

  get returns(): boolean {
    return this.isFile && this.answer.terms.length > 0;
  }

  /** From a file's graph to the answer's own. */
  back(): void {
    this.past = [];
    this.material = material(this.answer);
    this.set(this.options.state ?? START);
  }

  /** Whether a file is of this very answer: then its paths are known, and only the state is
   * taken. */
  private sameGraph(made: Material): boolean {
    const ids = idsOf(this.material);
    const same = made.prompt === this.material.prompt && made.target === this.material.target;
    return same && made.paths.every((path) => path.nodes.every((place) => ids.has(place.id)));
  }

  // How it is pointed at, and walked.

  lines(target: Element | null): string[] {
    const node = this.shown.graph.nodes.get(
      target?.closest<SVGElement>("[data-node]")?.dataset["node"] ?? "",
    );
    if (node) return this.said(node);
    const { link, pair } = target instanceof SVGElement ? target.dataset : {};
    const along = this.shown.graph.links.get(link ?? "");
    if (along)
      return [
        `${printable(this.names.full(along.source))} → ${printable(this.names.full(along.target))}`,
        signed(along.weight),
      ];
    const joint = this.shown.graph.pairs.get(pair ?? "");
    return joint ? [printable(this.names.pair(joint)), signed(joint.value)] : [];
  }

  keys(id: string): Record<string, () => void> {
    return {
      Enter: () => this.open(id),
      " ": () => this.open(id),
      p: () => this.pin(id),
      g: () => this.group(id),
      h: () => this.hide(id),
      l: () => this.label(id),
      c: () => this.centre(id),
      b: () => this.putBack(id),
      u: () => this.undo(),
      z: () => this.undo(),
      ...(this.state.open ? { Escape: () => this.change({ open: "" }) } : {}),
      ArrowLeft: () => this.walk(id, "left"),
      ArrowRight: () => this.walk(id, "right"),
      ArrowUp: () => this.walk(id, "up"),
      ArrowDown: () => this.walk(id, "down"),
    };
  }

  private walk(id: string, way: Way): void {
    const next = this.beside(id, way);
    if (!next) return;
    this.focused = next;
    this.speakAll();
    this.focus();
  }

  private beside(id: string, way: Way): string | null {
    return neighbour(this.sketch?.places.spots, id, way);
  }

  preview(state: GraphState): void {
    this.state = state;
    this.paint();
  }

  /** One step, which can be undone. */
  settle(id: string, before: GraphState): void {
    const { moved } = this.state;
    this.state = before;
    this.focused = id;
    this.change({ moved });
  }
}
