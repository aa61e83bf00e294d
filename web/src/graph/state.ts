// What a reader did to a graph, as plain data: it goes into addresses and files, and is undone.

export interface GraphState {
  readonly share: number; // of all values' sizes, that is shown
  readonly open: string; // the node whose links are listed; "" none
  readonly centre: string; // the node whose connections alone are shown; "" all
  readonly only: boolean; // pinned nodes and groups alone
  readonly pinned: readonly string[];
  readonly hidden: readonly string[];
  readonly groups: readonly Group[];
  readonly labels: Readonly<Record<string, string>>;
  readonly moved: Readonly<Record<string, Shift>>; // nodes put elsewhere by hand
}

/** How far from its own place: in thousandths of the drawing's width and height, so that it fits
 * one of any size. */
export type Shift = readonly [across: number, down: number];

export interface Group {
  readonly name: string;
  readonly nodes: readonly string[];
}

export const START: GraphState = {
  share: 0.8,
  open: "",
  centre: "",
  only: false,
  pinned: [],
  hidden: [],
  groups: [],
  labels: {},
  moved: {},
};

const GROUP = "group:";
export const FULL = 1000; // thousandths, of the width or height of a drawing

/** A group is called by its number among the nodes that are drawn. */
export function groupId(n: number): string {
  return `${GROUP}${n}`;
}

/** Which group an id is: −1 for a node of its own. */
export function groupNumber(id: string): number {
  return id.startsWith(GROUP) ? Number(id.slice(GROUP.length)) : -1;
}

/** Which node each is drawn as. */
export function drawnAs(state: GraphState): (id: string) => string {
  const found = new Map<string, string>();
  state.groups.forEach((group, n) => group.nodes.forEach((id) => found.set(id, groupId(n))));
  return (id) => found.get(id) ?? id;
}

export function toggled(list: readonly string[], id: string): string[] {
  return list.includes(id) ? list.filter((one) => one !== id) : [...list, id];
}

/** Nodes put together under a name: they leave the groups that they were in. */
export function grouped(state: GraphState, ids: readonly string[], name: string): GraphState {
  const nodes = ids.flatMap((id) => state.groups[groupNumber(id)]?.nodes ?? [id]);
  const left = state.groups.map((group) => ({
    ...group,
    nodes: group.nodes.filter((id) => !nodes.includes(id)),
  }));
  const groups = [
    ...left.filter((group) => group.nodes.length),
    { name, nodes: [...new Set(nodes)] },
  ];
  return {
    ...state,
    groups,
    pinned: state.pinned.filter((id) => groupNumber(id) < 0),
    open: groupId(groups.length - 1),
  };
}

/** A group taken apart. */
export function ungrouped(state: GraphState, id: string): GraphState {
  const n = groupNumber(id);
  const nodes = state.groups[n]?.nodes ?? [];
  const pinned = [...new Set([...state.pinned.filter((one) => groupNumber(one) < 0), ...nodes])];
  return { ...state, groups: state.groups.filter((_, m) => m !== n), pinned, open: nodes[0] ?? "" };
}

/** A label of one's own; an empty one gives the node its name back. A group is renamed. */
export function labelled(state: GraphState, id: string, label: string): GraphState {
  const n = groupNumber(id);
  if (n >= 0) {
    const groups = state.groups.map((group, m) =>
      m === n ? { ...group, name: label || group.name } : group,
    );
    return { ...state, groups };
  }
  const { [id]: _, ...others } = state.labels;
  return { ...state, labels: label ? { ...others, [id]: label } : others };
}

/** A node put elsewhere, from where it is now. Where it comes back to its own place nothing is
 * kept. */
export function movedBy(state: GraphState, id: string, [across, down]: Shift): GraphState {
  const [x, y] = state.moved[id] ?? [0, 0];
  const now: Shift = [held(x + across), held(y + down)];
  const { [id]: _, ...others } = state.moved;
  return { ...state, moved: now[0] || now[1] ? { ...others, [id]: now } : others };
}

function held(thousandths: number): number {
  return Math.max(-FULL, Math.min(FULL, Math.round(thousandths)));
}

/** As parts of an address. What is as at the start is left out. */
export function encoded(state: GraphState): Record<string, string> {
  const found: Record<string, string> = {};
  if (state.share !== START.share) found["share"] = String(state.share);
  for (const key of ["open", "centre"] as const) if (state[key]) found[key] = state[key];
  if (state.only) found["only"] = "1";
  if (state.pinned.length) found["pin"] = state.pinned.join(",");
  if (state.hidden.length) found["hide"] = state.hidden.join(",");
  if (state.groups.length)
    found["group"] = JSON.stringify(state.groups.map((group) => [group.name, ...group.nodes]));
  const labels = Object.entries(state.labels);
  if (labels.length) found["label"] = JSON.stringify(labels);
  const moved = Object.entries(state.moved);
  if (moved.length)
    found["move"] = JSON.stringify(moved.map(([id, at]) => [id, ...at.map(String)]));
  return found;
}

/** A state from parts of an address, and what of these does not fit the nodes that there are. */
export function decoded(
  parts: Readonly<Record<string, string>>,
  has: (id: string) => boolean,
): { state: GraphState; dropped: string[] } {
  const dropped: string[] = [];
  const kept = (ids: readonly string[]): string[] =>
    ids.filter((id) => {
      if (!has(id)) dropped.push(id);
      return has(id);
    });
  const groups = lists(parts["group"], dropped)
    .map(([name = "", ...nodes]) => ({ name, nodes: kept(nodes) }))
    .filter((group) => group.nodes.length);
  const known = (id: string | undefined): string => {
    const n = groupNumber(id ?? "");
    if (n >= 0 ? n < groups.length : !id || has(id)) return id ?? "";
    dropped.push(id ?? "");
    return "";
  };
  const share = Number(parts["share"] ?? START.share);
  const labels = lists(parts["label"], dropped).filter(([id = ""]) => kept([id]).length);
  const state: GraphState = {
    share: share > 0 && share <= 1 ? share : START.share,
    open: known(parts["open"]),
    centre: known(parts["centre"]),
    only: parts["only"] === "1",
    pinned: split(parts["pin"]).map(known).filter(Boolean),
    hidden: split(parts["hide"]).map(known).filter(Boolean),
    groups,
    labels: Object.fromEntries(labels.map(([id = "", label = ""]) => [id, label])),
    moved: Object.fromEntries(
      lists(parts["move"], dropped).flatMap(([id = "", ...at]) => shiftOf(known(id), at)),
    ),
  };
  return { state, dropped };
}

/** A node's shift as it was read; nothing where it is none. */
function shiftOf(id: string, at: readonly unknown[]): [string, Shift][] {
  const [across, down] = at.map(Number);
  const fits = Number.isFinite(across) && Number.isFinite(down);
  return id && fits ? [[id, [held(across ?? 0), held(down ?? 0)]]] : [];
}

/** The shifts that a file holds, of nodes that it has. */
export function shiftsOf(
  rows: unknown,
  has: (id: string) => boolean,
): Readonly<Record<string, Shift>> {
  if (!Array.isArray(rows)) return {};
  const found = rows.flatMap((row: unknown) => {
    const [id, ...at]: unknown[] = Array.isArray(row) ? row : [];
    return typeof id === "string" && has(id) ? shiftOf(id, at) : [];
  });
  return Object.fromEntries(found);
}

function split(text: string | undefined): string[] {
  return (text ?? "").split(",").filter(Boolean);
}

function lists(text: string | undefined, dropped: string[]): string[][] {
  if (!text) return [];
  try {
    const found: unknown = JSON.parse(text);
    const plain = (one: unknown): one is string[] =>
      Array.isArray(one) && one.every((part) => typeof part === "string");
    if (Array.isArray(found) && found.every(plain)) return found;
  } catch {
    // said below
  }
  dropped.push(text);
  return [];
}
