// A small answer: four paths of a layer and a head over two tokens.

import type { Answer } from "../src/types";

export function answer(): Answer {
  const silent = {
    effect: null,
    verdict: null,
    why: null,
    direct_mean: null,
    effect_mean: null,
    verdict_mean: null,
    why_mean: null,
  };
  return {
    prompt: "a b",
    tokens: [
      { name: "a", id: 5 },
      { name: "␣b", id: 6 },
    ],
    position: 1,
    target: { name: "␣c", id: 7 },
    versus: null,
    value: 1.6,
    probability: 0.25,
    likely: [
      { name: "␣c", id: 7, probability: 0.25, logit: 1.6 },
      { name: "␣d", id: 8, probability: 0.2, logit: 1.5 },
    ],
    nodes: [
      { s: "embed", t: 1 },
      { s: "mlp1", t: 1, k: "apply", i: [0, 0] },
      { s: "embed", t: 0 },
      { s: "L1H0", t: 1, k: "apply", i: [2], a: [0] },
      { s: "mlp1", t: 1, k: "apply", i: [3, 0] },
    ],
    terms: [
      [2.5, 1],
      [-1, 3],
      [-0.5, 4],
      [0.5, 0],
    ],
    total: 1.6,
    remainder: 0.1,
    left_out: 3,
    error: 1e-15,
    given: ["A L1H0[1,0]"],
    held: "1 patterns",
    opaque: [],
    summary: "4 terms",
    total_said: "1.6",
    sources: [
      { name: "embed", kind: "embedding", layer: -1, label: "embed", direct: 0.5, ...silent },
      {
        name: "L1H0",
        kind: "attention head",
        layer: 1,
        label: "L1H0",
        direct: -1,
        effect: 0.5,
        verdict: "reversed",
        why: "mlp1 reacts",
        direct_mean: -0.75,
        effect_mean: -0.5,
        verdict_mean: "confirmed",
        why_mean: "nothing reacts",
      },
      {
        name: "mlp1",
        kind: "MLP",
        layer: 1,
        label: "mlp1",
        direct: 2.1,
        effect: 2,
        verdict: "confirmed",
        why: "as it is",
        direct_mean: 1.75,
        effect_mean: 1.5,
        verdict_mean: "confirmed",
        why_mean: "as it was",
      },
    ],
    positions: [-1.25, 2.75],
    elsewhere: 0.1,
    patterns: { heads: ["L1H0"], weights: [[1, 0.75, 0.25]] },
    lens: {
      places: ["embed", "mlp1"],
      says: [
        ["x", "y"],
        ["z", "␣c"],
      ],
      probabilities: [
        [0.1, 0.2],
        [0.3, 0.4],
      ],
      ranks: [
        [6, 5],
        [4, 1],
      ],
      values: [
        [0, 1],
        [1, 1.6],
      ],
    },
    pairs: [{ layer: "mlp1", names: ["embed", "L1H0"], values: [[2.5], [-0.5, 0.1]] }],
    python: "ex = bilens.expand(model, 'a b', ' c', position=1, max_terms=4)",
  };
}
