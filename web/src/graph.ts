// The node–link view of an answer: what writes to the target, what goes along each link, and which
// pairs layers multiply. Nodes are walked by arrow keys, opened, pinned, grouped, hidden and named.

import { button, dom, isolated } from "./dom";
import { fullScreen, saveCsv, saveJson, savePng, saveSvg, type Table } from "./export";
import { measured } from "./figure/text";
import { type GraphNode, idsOf, type Material, material, TARGET } from "./graph/data";
import { colour, said, type Sketch, sketch } from "./graph/draw";
import { fileOf, named, read } from "./graph/file";
import type { Spot } from "./graph/layout";
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
import { percent, signed } from "./numbers";
import { treeOf } from "./prompt/tree";
import { element } from "./svg";
import { printable } from "./text";
import type { Answer } from "./types";

export { decoded, encoded, type GraphState, START } from "./graph/state";

export interface GraphOptions {
  state?: GraphState;
  onState?: (state: GraphState) => void; // whenever the reader changed something
  onPath?: (term: number) => void; // a path was asked for, by its number among the answer's terms
}

const KEYS =
  "Arrow keys move between nodes, Enter opens one, p pins it, g groups the pinned ones, " +
  "h hides it, l labels it, c shows only what it is connected with, Shift and an arrow key move " +
  "it, b puts it back, u undoes. A node can be dragged too.";
const NEAR = 4; // pixels that a pointer may go before it drags
const STEP = 12; // pixels that a key moves a node
const LISTED = 12; // links, pairs and paths in a list
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

class GraphView {
  private material: Material;
  private state: GraphState;
  private past: { state: GraphState; focused: string }[] = [];
  private shown: Shown;
  private sketch: Sketch | null = null;
  private focused = TARGET; // the node that Tab comes to
  private readonly share = dom("input", {
    type: "range",
    min: "1",
    max: "100",
    step: "1",
    "aria-label": "How much of all paths is drawn",
  });
  private readonly place = dom("div", { class: "graph-place" });
  private readonly bar = dom("div", {
    class: "graph-bar",
    role: "group",
    "aria-label": "The graph's tools",
  });
  private readonly told = dom("p", { class: "graph-told", role: "status" });
  private readonly side = dom("div", { class: "graph-side" });
  private readonly tip = dom("div", { class: "figure-tip", hidden: true });
  private readonly observer = new ResizeObserver(() => this.resized());
  private width = 0;
  private drag: Drag | null = null;

  constructor(
    private readonly box: HTMLElement,
    private readonly answer: Answer,
    private readonly options: GraphOptions,
  ) {
    this.material = material(answer);
    this.state = options.state ?? START;
    this.shown = shown(this.material, this.state);
    box.classList.add("graph");
    const drawing = dom("div", { class: "graph-drawing" }, this.place, this.tip);
    box.replaceChildren(this.bar, this.told, drawing, this.side);
    this.share.addEventListener("input", () =>
      this.change({ share: Number(this.share.value) / 100 }, "share"),
    );
    this.listen();
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
  private change(part: Partial<GraphState>, step = ""): void {
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

  private undo(): void {
    const before = this.past.pop();
    if (!before) return;
    this.focused = before.focused;
    this.set(before.state);
  }

  private open(id: string): void {
    this.focused = id;
    this.change({ open: this.state.open === id || id === TARGET ? "" : id });
  }

  private pin(id: string): void {
    if (id !== TARGET) this.change({ pinned: toggled(this.state.pinned, id) });
  }

  private hide(id: string): void {
    if (id === TARGET) return;
    const next =
      this.neighbour(id, "left") ??
      this.neighbour(id, "right") ??
      this.neighbour(id, "up") ??
      TARGET;
    this.change({
      hidden: [...this.state.hidden, id],
      open: this.state.open === id ? "" : this.state.open,
    });
    this.focused = next;
    this.speakAll();
    this.focus();
  }

  private centre(id: string): void {
    this.change({ centre: this.state.centre === id || id === TARGET ? "" : id });
  }

  /** The pinned nodes, and `id`, under one name. */
  private group(id: string): void {
    const ids = [...new Set([...this.state.pinned, ...(id === TARGET ? [] : [id])])];
    if (ids.length < 2 && groupNumber(id) < 0)
      return this.say("Pin two nodes or more first (p), then group them.");
    this.ask("Name of the group", "", (name) =>
      this.change(grouped(this.state, ids, name || "group")),
    );
  }

  /** A node put elsewhere, by so many pixels of the drawing. */
  private move(id: string, across: number, down: number): void {
    this.change(movedBy(this.state, id, this.shift(across, down)));
  }

  private shift(across: number, down: number): Shift {
    const { width, height } = this.sketch?.places ?? { width: 1, height: 1 };
    return [(FULL * across) / width, (FULL * down) / height];
  }

  private putBack(id: string): void {
    const { [id]: _, ...moved } = this.state.moved;
    this.change({ moved });
  }

  private label(id: string): void {
    if (id === TARGET) return;
    const node = this.shown.whole.nodes.get(id);
    this.ask("Label", node ? this.name(node) : "", (text) =>
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

  private name(node: GraphNode): string {
    return this.state.labels[node.id] ?? node.label;
  }

  private draw(): void {
    const held =
      this.box.contains(document.activeElement) && !this.bar.contains(document.activeElement);
    const { graph } = this.shown;
    if (!graph.nodes.has(this.focused))
      this.focused = graph.nodes.has(this.state.open) ? this.state.open : TARGET;
    this.paint();
    this.tip.hidden = true;
    this.tools();
    this.tell();
    this.list();
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
      name: (node: GraphNode) => this.name(node),
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
    return said(node, { name: (one) => this.name(one), tokens: this.material.tokens });
  }

  private focus(): void {
    this.place.querySelector<SVGGElement>('[tabindex="0"]')?.focus({ preventScroll: false });
  }

  private tools(): void {
    const held =
      document.activeElement instanceof HTMLElement && this.bar.contains(document.activeElement)
        ? document.activeElement.dataset["tool"]
        : undefined;
    const { state } = this;
    const tool = (
      name: string,
      action: () => void,
      more: Record<string, string | boolean> = {},
    ): HTMLButtonElement => button(name, action, { "data-tool": name, ...more });
    this.share.value = String(Math.round(100 * state.share));
    this.share.dataset["tool"] = "share";
    const size = dom("output", {}, percent(state.share, 3));
    const hidden = state.hidden.length
      ? [tool(`Show ${state.hidden.length} hidden`, () => this.change({ hidden: [] }))]
      : [];
    const moved = Object.keys(state.moved).length;
    const whole = state.centre ? [tool("Show all", () => this.change({ centre: "" }))] : [];
    const file = dom("input", {
      type: "file",
      accept: ".json,application/json",
      hidden: true,
      onchange: () => void this.load(file),
    });
    this.bar.replaceChildren(
      dom("label", { class: "graph-share" }, "Paths drawn ", this.share, size),
      tool("Only pinned", () => this.change({ only: !state.only }), {
        "aria-pressed": String(state.only),
      }),
      ...whole,
      ...hidden,
      // always there, so that nothing jumps when a node is let go
      tool("Put back", () => this.change({ moved: {} }), {
        title: "All nodes that were moved to their own places",
        ...(moved ? {} : { disabled: true }),
      }),
      tool("Undo", () => this.undo(), { ...(this.past.length ? {} : { disabled: true }) }),
      ...(this.isFile && this.answer.terms.length
        ? [tool("Back to the answer", () => this.back())]
        : []),
      tool("Save graph", () => this.save(), {
        title: "As JSON in Neuronpedia's layout, with pins, groups and labels",
      }),
      tool("Open graph", () => file.click()),
      tool("SVG", () => this.sketch && saveSvg(this.fileName(), this.sketch.shape), {
        "aria-label": "SVG: save the graph",
      }),
      tool("PNG", () => this.sketch && void savePng(this.fileName(), this.sketch.shape), {
        "aria-label": "PNG: save the graph",
      }),
      tool("CSV", () => saveCsv(this.fileName(), this.table()), {
        "aria-label": "CSV: save the links",
      }),
      ...fullScreen(this.box, `graph of ${printable(this.material.target)}`),
      dom("details", { class: "graph-keys" }, dom("summary", {}, "Keys"), KEYS),
      file,
    );
    if (held) this.bar.querySelector<HTMLElement>(`[data-tool="${held}"]`)?.focus();
  }

  private fileName(): string {
    return `graph ${this.material.target}`;
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

  private get isFile(): boolean {
    return !this.material.paths.some((path) => path.number >= 0);
  }

  /** The open node: what it is, its links in and out, its pairs and paths, and what to do with
   * it. */
  private list(): void {
    const node = this.shown.graph.nodes.get(this.state.open);
    if (!node) {
      this.side.replaceChildren(
        dom(
          "p",
          { class: "soft" },
          "Click a node, or walk to it and press Enter: its links are listed here.",
        ),
      );
      return;
    }
    const { links, pairs } = this.shown.whole;
    const heading = dom(
      "h3",
      {},
      isolated(printable(named({ ...node, label: this.name(node) }, this.material.tokens))),
    );
    const all = this.isFile ? "" : `all ${node.paths} paths through it give `;
    const gives = dom("p", {}, `${node.kind}; ${all}${signed(node.influence, 6)}.`);
    const into = [...links.values()]
      .filter((link) => link.target === node.id)
      .map((link) => this.linkRow(link.source, link.weight));
    const out = [...links.values()]
      .filter((link) => link.source === node.id)
      .map((link) => this.linkRow(link.target, link.weight));
    const joined = [...pairs.values()].filter((pair) =>
      [pair.node, pair.left, pair.right].includes(node.id),
    );
    this.side.replaceChildren(
      heading,
      gives,
      this.actions(node),
      dom(
        "div",
        { class: "graph-lists" },
        this.rows("Reads from", into),
        this.rows("Writes to", out),
        this.rows(
          "Pairs",
          joined.map((pair) => ({
            value: pair.value,
            text: this.pairText(pair, node.id),
            id: pair.node === node.id ? pair.left : pair.node,
          })),
        ),
        this.rows("Paths through it", this.pathRows(node.id)),
      ),
    );
  }

  private actions(node: GraphNode): HTMLElement {
    const { id } = node;
    const more =
      groupNumber(id) >= 0 ? [button("Ungroup", () => this.change(ungrouped(this.state, id)))] : [];
    return dom(
      "p",
      { class: "graph-actions" },
      button(this.state.pinned.includes(id) ? "Unpin" : "Pin", () => this.pin(id)),
      button("Group", () => this.group(id)),
      ...more,
      button(this.state.centre === id ? "Show all" : "Centre", () => this.centre(id)),
      button("Label", () => this.label(id)),
      button("Hide", () => this.hide(id)),
    );
  }

  private linkRow(id: string, value: number): Row {
    return { value, text: this.idText(id), id };
  }

  private idText(id: string): string {
    const node = this.shown.whole.nodes.get(id);
    return node ? named({ ...node, label: this.name(node) }, this.material.tokens) : id;
  }

  private pairText(
    { node, left, right }: { node: string; left: string; right: string },
    inside = "",
  ): string {
    const two = `${this.idText(left)} × ${this.idText(right)}`;
    return node === inside ? two : `${two} in ${this.idText(node)}`;
  }

  private pathRows(id: string): Row[] {
    const ids = this.state.groups[groupNumber(id)]?.nodes ?? [id];
    const tree = treeOf(this.answer);
    return this.shown.paths
      .filter((path) => path.number >= 0 && path.nodes.some((place) => ids.includes(place.id)))
      .map(({ value, number }) => ({ value, text: tree.path(number), term: number }));
  }

  private rows(title: string, rows: readonly Row[]): HTMLElement {
    const sorted = [...rows].sort((one, other) => Math.abs(other.value) - Math.abs(one.value));
    const first = sorted.slice(0, LISTED).map((row) => this.row(row));
    const others = sorted.slice(LISTED).map((row) => this.row(row));
    const more = others.length
      ? [dom("details", {}, dom("summary", {}, `${others.length} more`), dom("ul", {}, ...others))]
      : [];
    return dom(
      "div",
      {},
      dom("h4", {}, `${title} (${rows.length})`),
      dom("ul", {}, ...first),
      ...more,
    );
  }

  private row({ value, text, id, term }: Row): HTMLElement {
    const number = dom("span", { class: "graph-value" }, signed(value));
    number.style.borderColor = colour(value);
    const words = isolated(printable(text));
    const action = this.action(id, term);
    if (!action) return dom("li", {}, number, words);
    const link = button("", action, { class: "graph-link" });
    link.append(words);
    return dom("li", {}, number, link);
  }

  /** What a click on a row does: to the node, or to the path, that it is of. */
  private action(id: string | undefined, term: number | undefined): (() => void) | null {
    if (id !== undefined && this.shown.graph.nodes.has(id)) return () => this.open(id);
    const { onPath } = this.options;
    return term !== undefined && onPath ? () => onPath(term) : null;
  }

  // How it is saved.

  private save(): void {
    saveJson(this.fileName(), fileOf(this.material, this.shown, this.state));
  }

  private async load(input: HTMLInputElement): Promise<void> {
    const file = input.files?.[0];
    if (!file) return;
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

  /** From a file's graph to the answer's own. */
  private back(): void {
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

  private table(): Table {
    const rows = [...this.shown.graph.links.values()].map((link) => [
      "link",
      this.idText(link.source),
      "",
      this.idText(link.target),
      link.weight,
    ]);
    const pairs = [...this.shown.graph.pairs.values()].map((pair) => [
      "pair",
      this.idText(pair.left),
      this.idText(pair.right),
      this.idText(pair.node),
      pair.value,
    ]);
    return { columns: ["what", "from", "and", "to", "value"], rows: [...rows, ...pairs] };
  }

  // How it is pointed at, and walked.

  private listen(): void {
    this.place.addEventListener("click", (event) => {
      const id = nodeAt(event);
      if (id && !this.drag?.moved) this.open(id);
      this.drag = null;
    });
    this.place.addEventListener("pointerdown", (event) => this.take(event));
    this.place.addEventListener("pointermove", (event) => {
      if (!this.dragged(event)) this.point(event);
    });
    this.place.addEventListener("pointerup", () => this.drop());
    this.place.addEventListener("pointercancel", () => this.drop());
    this.place.addEventListener("pointerleave", () => this.hideTip());
    this.place.addEventListener("focusin", (event) => this.point(event));
    this.place.addEventListener("focusout", () => this.hideTip());
    this.place.addEventListener("keydown", (event) => this.key(event));
  }

  /** A node is pressed: it may be clicked, or dragged. */
  private take(event: PointerEvent): void {
    const id = nodeAt(event);
    this.drag = null;
    if (!id || event.button !== 0 || !event.isPrimary) return;
    const { clientX: x, clientY: y } = event;
    this.drag = { id, x, y, before: this.state, moved: false };
  }

  /** Whether a node goes with the pointer. */
  private dragged(event: PointerEvent): boolean {
    const { drag } = this;
    if (!drag || !event.buttons) return false;
    const [across, down] = [event.clientX - drag.x, event.clientY - drag.y];
    if (!drag.moved && Math.hypot(across, down) < NEAR) return false;
    if (!drag.moved) this.place.setPointerCapture(event.pointerId);
    drag.moved = true;
    this.hideTip();
    this.state = movedBy(drag.before, drag.id, this.shift(across, down));
    this.paint();
    return true;
  }

  /** It stands where it was let go: one step, which can be undone. */
  private drop(): void {
    const { drag } = this;
    if (!drag?.moved) return;
    const { moved } = this.state;
    this.state = drag.before;
    this.focused = drag.id;
    this.change({ moved });
  }

  private hideTip(): void {
    this.tip.hidden = true;
  }

  private point(event: Event): void {
    const target = event.target instanceof Element ? event.target : null;
    const lines = this.lines(target);
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

  private lines(target: Element | null): string[] {
    const node = this.shown.graph.nodes.get(
      target?.closest<SVGElement>("[data-node]")?.dataset["node"] ?? "",
    );
    if (node) return this.said(node);
    const { link, pair } = target instanceof SVGElement ? target.dataset : {};
    const along = this.shown.graph.links.get(link ?? "");
    if (along)
      return [
        `${printable(this.idText(along.source))} → ${printable(this.idText(along.target))}`,
        signed(along.weight),
      ];
    const joint = this.shown.graph.pairs.get(pair ?? "");
    return joint ? [printable(this.pairText(joint)), signed(joint.value)] : [];
  }

  private key(event: KeyboardEvent): void {
    const id = nodeAt(event);
    if (!id || event.altKey || event.metaKey || (event.ctrlKey && event.key !== "z")) return;
    const actions: Record<string, () => void> = {
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
      Escape: () => this.change({ open: "" }),
      ArrowLeft: () => this.walk(id, "left"),
      ArrowRight: () => this.walk(id, "right"),
      ArrowUp: () => this.walk(id, "up"),
      ArrowDown: () => this.walk(id, "down"),
    };
    const away = event.shiftKey ? AWAY[event.key] : undefined;
    const action = away ? () => this.move(id, ...away) : actions[event.key];
    if (!action || (event.key === "Escape" && !this.state.open)) return;
    event.preventDefault();
    event.stopPropagation();
    this.focused = id;
    action();
  }

  private walk(id: string, way: Way): void {
    const next = this.neighbour(id, way);
    if (!next) return;
    this.focused = next;
    this.speakAll();
    this.focus();
  }

  /** The next node in a row; or the nearest of the row above or below. */
  private neighbour(id: string, way: Way): string | null {
    const spots = this.sketch?.places.spots;
    const here = spots?.get(id);
    if (!spots || !here) return null;
    const aside = way === "left" || way === "right";
    const sign = way === "left" || way === "down" ? -1 : 1;
    const ahead = [...spots.values()].filter((spot) =>
      aside
        ? spot.row === here.row && sign * (spot.x - here.x) > 0
        : sign * (spot.row - here.row) > 0,
    );
    const away = (spot: Spot): number =>
      (aside ? 0 : 1e6 * Math.abs(spot.row - here.row)) + Math.abs(spot.x - here.x);
    return ahead.sort((one, other) => away(one) - away(other))[0]?.node.id ?? null;
  }
}

/** A node under a pressed pointer: where that began, and what the graph was like. */
interface Drag {
  readonly id: string;
  readonly x: number;
  readonly y: number;
  readonly before: GraphState;
  moved: boolean;
}

const AWAY: Readonly<Record<string, [across: number, down: number]>> = {
  ArrowLeft: [-STEP, 0],
  ArrowRight: [STEP, 0],
  ArrowUp: [0, -STEP],
  ArrowDown: [0, STEP],
};

type Way = "left" | "right" | "up" | "down";

interface Row {
  value: number;
  text: string;
  id?: string;
  term?: number;
}

function nodeAt(event: Event): string {
  const target = event.target instanceof Element ? event.target : null;
  return target?.closest<SVGElement>("[data-node]")?.dataset["node"] ?? "";
}
