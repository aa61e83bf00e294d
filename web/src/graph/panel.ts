// The open node: what it is, its links in and out, its pairs and paths, and what to do with it.

import { button, dom, isolated } from "../dom";
import { signed } from "../numbers";
import { treeOf } from "../prompt/tree";
import { printable } from "../text";
import type { Answer } from "../types";
import type { GraphNode } from "./data";
import { colour } from "./draw";
import type { Names } from "./names";
import type { Shown } from "./shown";
import { type GraphState, groupNumber } from "./state";

/** What can be done to a node, by its id, and to a path, by its number. */
export interface Actions {
  open(id: string): void;
  pin(id: string): void;
  group(id: string): void;
  ungroup(id: string): void;
  centre(id: string): void;
  label(id: string): void;
  hide(id: string): void;
  readonly path: ((term: number) => void) | undefined;
}

/** The graph that the node is of. */
export interface About {
  readonly answer: Answer;
  readonly shown: Shown;
  readonly state: GraphState;
  readonly names: Names;
  readonly isFile: boolean; // a file's, which has no paths
}

interface Row {
  readonly value: number;
  readonly text: string;
  readonly id?: string;
  readonly term?: number;
}

const LISTED = 12; // links, pairs and paths in a list

export function panel(about: About, actions: Actions): HTMLElement[] {
  const { shown, state, names, isFile } = about;
  const node = shown.whole.nodes.get(state.open);
  if (!node)
    return [
      dom(
        "p",
        { class: "soft" },
        "Click a node, or walk to it and press Enter: its links are listed here.",
      ),
    ];
  const all = isFile ? "" : `all ${node.paths} paths through it give `;
  const list = (title: string, rows: readonly Row[]): HTMLElement =>
    listed(title, rows, (row) => actionOf(row, shown, actions));
  return [
    dom("h3", {}, isolated(printable(names.full(node.id)))),
    dom("p", {}, `${node.kind}; ${all}${signed(node.influence, 6)}.`),
    buttons(node, state, actions),
    dom(
      "div",
      { class: "graph-lists" },
      list("Reads from", into(node, about)),
      list("Writes to", out(node, about)),
      list("Pairs", pairs(node, about)),
      list("Paths through it", paths(node, about)),
    ),
  ];
}

function buttons({ id }: GraphNode, state: GraphState, actions: Actions): HTMLElement {
  const more = groupNumber(id) >= 0 ? [button("Ungroup", () => actions.ungroup(id))] : [];
  return dom(
    "p",
    { class: "graph-actions" },
    button(state.pinned.includes(id) ? "Unpin" : "Pin", () => actions.pin(id)),
    button("Group", () => actions.group(id)),
    ...more,
    button(state.centre === id ? "Show all" : "Centre", () => actions.centre(id)),
    button("Label", () => actions.label(id)),
    button("Hide", () => actions.hide(id)),
  );
}

// What a node is tied to.

function into({ id }: GraphNode, { shown, names }: About): Row[] {
  return [...shown.whole.links.values()]
    .filter((link) => link.target === id)
    .map(({ source, weight }) => ({ value: weight, text: names.full(source), id: source }));
}

function out({ id }: GraphNode, { shown, names }: About): Row[] {
  return [...shown.whole.links.values()]
    .filter((link) => link.source === id)
    .map(({ target, weight }) => ({ value: weight, text: names.full(target), id: target }));
}

function pairs({ id }: GraphNode, { shown, names }: About): Row[] {
  return [...shown.whole.pairs.values()]
    .filter((pair) => [pair.node, pair.left, pair.right].includes(id))
    .map((pair) => ({
      value: pair.value,
      text: names.pair(pair, id),
      id: pair.node === id ? pair.left : pair.node,
    }));
}

function paths({ id }: GraphNode, { answer, shown, state }: About): Row[] {
  const ids = state.groups[groupNumber(id)]?.nodes ?? [id];
  const tree = treeOf(answer);
  return shown.paths
    .filter((path) => path.number >= 0 && path.nodes.some((place) => ids.includes(place.id)))
    .map(({ value, number }) => ({ value, text: tree.path(number), term: number }));
}

// How it is listed.

type Action = (() => void) | null;

/** What a click on a row does: to the node, or to the path, that it is of. */
function actionOf({ id, term }: Row, shown: Shown, actions: Actions): Action {
  if (id !== undefined && shown.graph.nodes.has(id)) return () => actions.open(id);
  const { path } = actions;
  return term !== undefined && path ? () => path(term) : null;
}

function listed(title: string, rows: readonly Row[], action: (row: Row) => Action): HTMLElement {
  const sorted = [...rows].sort((one, other) => Math.abs(other.value) - Math.abs(one.value));
  const items = sorted.map((row) => item(row, action(row)));
  const others = items.slice(LISTED);
  const more = others.length
    ? [dom("details", {}, dom("summary", {}, `${others.length} more`), dom("ul", {}, ...others))]
    : [];
  return dom(
    "div",
    {},
    dom("h4", {}, `${title} (${rows.length})`),
    dom("ul", {}, ...items.slice(0, LISTED)),
    ...more,
  );
}

function item({ value, text }: Row, action: Action): HTMLElement {
  const number = dom("span", { class: "graph-value" }, signed(value));
  number.style.borderColor = colour(value);
  const words = isolated(printable(text));
  if (!action) return dom("li", {}, number, words);
  const link = button("", action, { class: "graph-link" });
  link.append(words);
  return dom("li", {}, number, link);
}
