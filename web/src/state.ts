// What a reader chose, as plain data: it stands in the address, and is undone and redone.

export const VIEWS = ["paths", "graph", "pairs", "attention", "lens", "layers"] as const;
export type View = (typeof VIEWS)[number];

export interface State {
  readonly s: string; // the section that the rest is about
  readonly prompt: string; // typed, where a page is live
  readonly pos: number | null;
  readonly target: string;
  readonly versus: string;
  readonly view: View;
  readonly open: readonly string[]; // branches of the tree
  readonly through: string; // paths through a source alone, or from a token: @3
  readonly path: number | null; // one of the answer's terms
  readonly head: string;
  readonly layer: string; // whose pairs are shown
  readonly out: readonly string[]; // what is knocked out
  readonly graph: Readonly<Record<string, string>>; // as the graph writes its own
}

export const START: State = {
  s: "",
  prompt: "",
  pos: null,
  target: "",
  versus: "",
  view: "paths",
  open: [],
  through: "",
  path: null,
  head: "",
  layer: "",
  out: [],
  graph: {},
};

const VERSION = "1";
const TEXTS = ["s", "prompt", "target", "versus", "through", "head", "layer"] as const;
const COUNTS = ["pos", "path"] as const;
const LISTS = ["open", "out"] as const;
// the graph's own words, under other names where they are taken
const OF_GRAPH: Readonly<Record<string, string>> = {
  share: "share",
  node: "open",
  centre: "centre",
  only: "only",
  pin: "pin",
  hide: "hide",
  group: "group",
  label: "label",
  move: "move",
};

/** As the part of an address behind #. What is as at the start is left out. */
export function encode(state: State): string {
  const parts = entries(state);
  if (!parts.length) return "";
  return [["v", VERSION] as const, ...parts]
    .map(([key, value]) => `${key}=${readable(value)}`)
    .join("&");
}

/** What of a state is not as at the start, as an address writes it. */
export function entries(state: State): [key: string, value: string][] {
  const parts: [string, string][] = [];
  for (const key of TEXTS) if (state[key]) parts.push([key, state[key]]);
  for (const key of COUNTS) if (state[key] !== null) parts.push([key, String(state[key])]);
  if (state.view !== START.view) parts.push(["view", state.view]);
  for (const key of LISTS) for (const one of state[key]) parts.push([key, one]);
  for (const [key, own] of Object.entries(OF_GRAPH))
    if (state.graph[own]) parts.push([key, state.graph[own]]);
  return parts;
}

/** A state from an address, and what in it does not read. */
export function decode(hash: string): { state: State; dropped: string[] } {
  const dropped: string[] = [];
  const found: { -readonly [Key in keyof State]: State[Key] } = { ...START };
  const graph: Record<string, string> = {};
  for (const part of hash.replace(/^#/, "").split("&").filter(Boolean)) {
    const [key = "", value = ""] = split(part);
    const own = OF_GRAPH[key];
    if (own) graph[own] = value;
    else if (one(TEXTS, key)) found[key] = value;
    else if (one(LISTS, key)) found[key] = [...found[key], value];
    else if (one(COUNTS, key) && /^\d{1,9}$/.test(value)) found[key] = Number(value);
    else if (key === "view" && one(VIEWS, value)) found.view = value;
    else if (key !== "v" || value !== VERSION) dropped.push(part);
  }
  return { state: { ...found, graph }, dropped };
}

function split(part: string): [string, string] {
  const at = part.indexOf("=");
  const [key, value] = at < 0 ? [part, ""] : [part.slice(0, at), part.slice(at + 1)];
  return [key, decoded(value)];
}

function decoded(value: string): string {
  try {
    return decodeURIComponent(value.replaceAll("+", " "));
  } catch {
    return value; // half of a % sequence stands for itself
  }
}

/** What a person can read in an address: commas and spaces are not written as numbers. */
function readable(value: string): string {
  const safe = value.isWellFormed() ? value : value.toWellFormed();
  return encodeURIComponent(safe)
    .replaceAll("%20", "+")
    .replaceAll("%2C", ",")
    .replaceAll("%40", "@");
}

function one<Key extends string>(list: readonly Key[], key: string): key is Key {
  return (list as readonly string[]).includes(key);
}
