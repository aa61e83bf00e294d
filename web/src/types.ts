// What Python writes and the page reads. Strings from models are raw text: they are shown through
// <Text>, never as markup. Names of tokens are as Python shows them (␣ for a space, ⏎ for a line
// end).

import type { Figure } from "./figure/data";

export interface BilensDocument {
  schema: 1;
  bilens: string; // the version that wrote it
  title: string;
  about?: string; // in how far the model's layers are tensors
  made?: string; // a date
  live?: Live | null;
  model?: Model | null;
  sections: Section[];
}

/** Where new questions are asked, in a page that is served; of whom, in a notebook. */
export interface Live {
  ask: string | ((question: Question, signal: AbortSignal) => Promise<Answer | { error: string }>);
  token?: string;
}

export interface Model {
  name: string;
  kind: "language" | "classifier";
}

export type Section =
  | Of<"model", ModelFacts>
  | Of<"exactness", Exactness>
  | Of<"chart", ChartData>
  | Of<"layer", LayerSection>
  | Of<"feature", FeatureData>
  | Of<"classes", ClassesData>
  | Of<"gates", GatesData>
  | Of<"nearest", NearestData>
  | Of<"prompt", PromptData>
  | Of<"missing", { text: string }>
  | { id: string; kind: "broken"; title: string; error: string };

interface Of<Kind extends string, Data> {
  id: string;
  kind: Kind;
  title: string;
  data: Data;
}

export interface ModelFacts {
  headline: string;
  beside: string;
  facts: Record<string, string>;
}

export interface Exactness {
  passed: boolean;
  summary: string;
  rows: {
    identity: string;
    dtype: string;
    error: number | null;
    allowed: number;
    holds: boolean;
  }[];
}

/** How a figure is said to who cannot see it, and how high it is in pixels. */
export interface Drawing {
  spoken: string;
  height: number;
}

export interface Chart extends Drawing {
  figure: Figure;
}

export type Cell = string | number | boolean | null;

export interface Numbers {
  columns: string[];
  rows: Record<string, Cell>[];
}

export interface ChartData extends Numbers {
  text: string;
  chart: Chart;
  python?: string; // the line that gives the same
}

/** Tokens, and how far each lies along a vector. */
export interface Words {
  tokens: string[];
  values: (number | null)[];
}

/** The tokens that lie most along a vector, to either side. */
export interface Lying {
  plus: Words;
  minus: Words;
}

/** What a layer looks for towards a target: the eigenvectors of its quadratic form. */
export interface LayerData {
  layer: string;
  vectors: (Lying & { value: number })[];
}

export interface LayerSection extends ChartData, LayerData {
  gates: { share: number; a: Lying; b: Lying }[];
  map: Chart | null; // pairs of tokens
  note: string; // why there is none
}

/** A latent: what is told of it in tokens, and passages that it fires in. */
export interface FeatureData extends ChartData {
  largest: number; // of its activations
  words: { name: string; unit: string; tokens: string[]; values: (number | null)[] }[];
  examples: Passage[];
}

export interface Passage {
  kind: string; // "top", or "random": one from each equal part of the activations
  text: number;
  position: number;
  tokens: string[];
  activations: (number | null)[];
  at: number; // which of the tokens it is about
  next: string | null;
  p: number | null; // of what comes next
  p_without: number | null; // with the latent taken out
}

export interface Picture {
  src: string; // a PNG as a data URI
  alt: string;
  caption: string;
}

export interface ClassesData {
  python?: string;
  size: number;
  mean_rank: number;
  pictured: boolean;
  cards: {
    label: string;
    rank: number;
    chart: Chart;
    rows: Record<string, Picture[]>;
    degenerate: string;
  }[];
}

export interface GatesData {
  python?: string;
  note: string;
  cards: { label: string; gates: { share: number; a: Picture; b: Picture }[] }[];
}

export interface NearestData {
  python?: string;
  note: string; // what is missing, where nothing could be measured
  measured: {
    text: string;
    degrees: Chart;
    rungs: Chart;
    refitted: boolean;
    columns: string[];
    rows: { layer: number; rungs: (Rung | null)[] }[];
    tokens: Carriers[];
    open: number;
  } | null;
}

export interface Rung {
  unexplained: number;
  error: number;
  tail: number;
}

export interface Carriers {
  layer: number;
  tail: number;
  kinds: { name: string; share: number; count: number }[];
  worst: { share: number; position: number; before: string; token: string; after: string }[];
}

export interface PromptData {
  prompt: string;
  answers: Answer[]; // none where a page that is live could not answer at first
  first: number; // which of the answers is shown first
  error?: string; // why there is none
}

export interface Token {
  name: string;
  id: number;
}

/** What makes one logit, or the difference of two, at one position. */
export interface Answer {
  prompt: string;
  tokens: Token[];
  position: number;
  target: Token;
  versus: Token | null;
  value: number;
  probability: number | null;
  likely: Likely[];
  terms: [value: number, node: number][]; // the largest first
  nodes: Node[];
  total: number;
  remainder: number;
  left_out: number; // paths that were not kept
  error: number;
  given: string[];
  held: string; // how many these are, and of which kinds
  opaque: string[];
  summary: string;
  total_said: string;
  sources: Source[]; // that write to the target: their direct values add up to it
  cuts?: Source[]; // what else was taken out: whole layers, and pairs ("mlp1(mlp0, L1H3)")
  tried?: [number, number] | null; // of how many parts the effect is known, where not of all
  knockout?: Knockout | null; // what was asked to be taken out together
  positions: number[];
  elsewhere?: number;
  patterns: Patterns | null;
  lens: Lens | null;
  pairs: PairMatrix[] | null;
  layers?: LayerData[] | null; // of the last layers; null where they are not taken apart
  python: string;
  python_effects?: string; // of all parts, where only those that write most were tried
  python_pairs?: string; // of all sources
}

export interface Likely extends Token {
  probability: number;
  logit: number;
}

/** A node of a path: what is written by a part at a position, and the nodes it is made of. */
export interface Node {
  s: string; // the source's name, as L0H3, mlp1, embed
  t: number; // the position
  i?: number[]; // its inputs among the nodes
  a?: number[]; // where these stand, if elsewhere than it does
  legs?: string[]; // what these are called, where their order does not tell
  k?: string;
  l?: string; // its label, where the name and inputs do not say it
}

export interface Source {
  name: string;
  kind: string;
  layer: number | null;
  label: string;
  direct: number;
  effect: number | null; // with zero in its place, as the verdict is
  verdict: string | null;
  why: string | null;
  direct_mean: number | null; // the same with the mean in its place
  effect_mean: number | null;
  verdict_mean: string | null;
  why_mean: string | null;
}

/** What becomes of the target with several things taken out at once. */
export interface Knockout {
  what: string[];
  before: number;
  removals: Removal[];
  summary: string;
}

export interface Removal {
  replaced_by: string;
  after: number;
  effect: number;
  direct: number;
  verdict: string;
  why: string;
}

/** Attention weights by head: rows of a lower triangle, one after another (`packed.ts` reads
 * them). */
export interface Patterns {
  heads: string[];
  weights: number[][] | Packed;
}

/** Rows of many numbers, as base64 of signed 16-bit ones, low byte first, times the scale. */
export interface Packed {
  scale: number;
  rows: string[];
}

/** What the stream says at each place (layers, in order) and position. A rank, from 1 on, is that
 * of what the last place says. */
export interface Lens {
  places: string[];
  says: string[][];
  probabilities: number[][];
  ranks: number[][];
  values: number[][];
}

/** Pairs of what a layer reads: the sum of both orders, a lower triangle by rows. `others`: how
 * many sources are not among the names, and what all of their pairs add. */
export interface PairMatrix {
  layer: string;
  names: string[];
  values: number[][];
  others?: { count: number; value: number };
}

/** What is asked of a live page. */
export interface Question {
  prompt: string;
  position: number | null;
  target: string | number | null; // a text, a name as shown, or an id
  versus: string | number | null;
  effects?: boolean; // whether parts are taken out, one after another
  max_terms?: number;
  knockout?: string[] | null;
}
