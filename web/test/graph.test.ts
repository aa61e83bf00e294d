import assert from "node:assert/strict";
import { test } from "node:test";
import { estimate } from "../src/figure/text";
import { graphOf, largest, type Material, material, sum, TARGET } from "../src/graph/data";
import { sketch } from "../src/graph/draw";
import { fileOf, type GraphFile, read } from "../src/graph/file";
import { shown } from "../src/graph/shown";
import {
  decoded,
  drawnAs,
  encoded,
  type GraphState,
  grouped,
  groupId,
  labelled,
  movedBy,
  START,
  ungrouped,
} from "../src/graph/state";
import { Tree } from "../src/prompt/tree";
import { source } from "../src/svg";
import type { Answer } from "../src/types";
import stored from "./graphs.json";

const cases = stored as unknown as Record<
  "paths" | "latents",
  { answer: Answer; graph: GraphFile }
>;
const { answer } = cases.paths;
const made = material(answer);
const WHOLE: GraphState = { ...START, share: 1 };

function near(one: number, other: number): void {
  assert.ok(Math.abs(one - other) < 1e-8, `${one} and ${other}`);
}

for (const [name, { answer, graph }] of Object.entries(cases)) {
  test(`nodes, links and pairs are those of circuits.graph: ${name}`, () => {
    const whole = material(answer);
    const found = fileOf(whole, shown(whole, WHOLE), WHOLE);
    const about = ({
      influence,
      pair_wise_contributors,
      ...rest
    }: GraphFile["nodes"][number]): object => rest;
    const byId = (file: GraphFile): GraphFile["nodes"] =>
      [...file.nodes].sort((one, other) => (one.node_id < other.node_id ? -1 : 1));
    assert.deepEqual(byId(found).map(about), byId(graph).map(about));
    byId(found).forEach((node, n) => {
      const other = byId(graph)[n] ?? assert.fail();
      near(node.influence ?? 0, other.influence ?? 0);
      const pairs = new Map(
        other.pair_wise_contributors?.map(([left, right, value]) => [`${left} ${right}`, value]),
      );
      assert.equal(node.pair_wise_contributors?.length ?? 0, pairs.size);
      for (const [left, right, value] of node.pair_wise_contributors ?? [])
        near(value, pairs.get(`${left} ${right}`) ?? Number.NaN);
    });
    const links = new Map(
      graph.links.map(({ source, target, weight }) => [`${source} ${target}`, weight]),
    );
    assert.equal(found.links.length, links.size);
    for (const { source, target, weight } of found.links)
      near(weight, links.get(`${source} ${target}`) ?? Number.NaN);
    assert.deepEqual(found.qParams, graph.qParams);
    assert.deepEqual(Object.keys(found.metadata), Object.keys(graph.metadata));
    near(Number(found.metadata["remainder"]), Number(graph.metadata["remainder"]));
  });
}

test("what is shown and the rest add up to the total, at every share", () => {
  for (const share of [0.01, 0.3, 0.8, 1]) {
    const now = shown(made, { ...START, share });
    near(now.value + now.rest, answer.total);
    near(now.value, sum(now.paths));
    assert.ok(now.size >= share - 1e-9);
    near(
      [...now.whole.links.values()]
        .filter((link) => link.target === TARGET)
        .reduce((held, link) => held + link.weight, 0),
      now.value,
    );
  }
  const sizes = largest(made.paths, 0.3).map((path) => Math.abs(path.value));
  assert.ok(
    Math.min(...sizes) >=
      Math.max(...made.paths.slice(sizes.length).map((path) => Math.abs(path.value))) - 1e-12,
  );
});

test("a group counts each path through it once, and what happens inside it is not drawn", () => {
  const ids = ["mlp0@4", "L0H0@4"];
  const state = grouped(WHOLE, ids, "mine");
  const graph = graphOf(made.paths, drawnAs(state));
  const through = made.paths.filter((path) => path.nodes.some((node) => ids.includes(node.id)));
  near(graph.nodes.get(groupId(0))?.influence ?? Number.NaN, sum(through));
  assert.ok(!graph.nodes.has("mlp0@4"));
  assert.ok([...graph.links.values()].every((link) => link.source !== link.target));
  const node = shown(made, state).graph.nodes.get(groupId(0));
  assert.deepEqual([node?.label, node?.kind, node?.position], ["mine", "group", 4]);
  assert.deepEqual(ungrouped(state, groupId(0)).groups, []);
  assert.deepEqual(ungrouped(state, groupId(0)).pinned, ids);
});

test("hidden nodes are not drawn and still counted; the centre keeps what it is connected with", () => {
  const hidden = shown(made, { ...WHOLE, hidden: ["mlp1@4"] });
  assert.ok(!hidden.graph.nodes.has("mlp1@4"));
  assert.ok(
    [...hidden.graph.links.values()].every(
      (link) => link.source !== "mlp1@4" && link.target !== "mlp1@4",
    ),
  );
  near(hidden.value, shown(made, WHOLE).value);
  const centred = shown(made, { ...WHOLE, centre: "L0H0@4" });
  assert.ok(centred.graph.nodes.size < shown(made, WHOLE).graph.nodes.size);
  assert.ok(centred.graph.nodes.has(TARGET) && !centred.graph.nodes.has("L0H1@4"));
  const only = shown(made, { ...WHOLE, only: true, pinned: ["mlp0@4", "mlp1@4"] });
  assert.deepEqual([...only.graph.nodes.keys()].sort(), ["mlp0@4", "mlp1@4", TARGET]);
});

const ODD = { move: '[["mlp0@4","9","far"],["nobody","1","1"],["mlp1@4","5000","0"]]' };

test("a state goes into an address and back, and what does not fit is dropped with its name", () => {
  const state = labelled(
    grouped(
      {
        ...START,
        share: 0.5,
        pinned: ["mlp0@4"],
        hidden: ["1@4"],
        centre: "mlp1@4",
        moved: { "mlp0@4": [-120, 40] },
      },
      ["L0H0@4", "L0H1@4"],
      "my, heads & <b>",
    ),
    "mlp1@4",
    "la=bel;\u202e",
  );
  const address = new URLSearchParams(encoded(state)).toString();
  const has = (id: string): boolean =>
    made.paths.some((path) => path.nodes.some((node) => node.id === id));
  const back = decoded(Object.fromEntries(new URLSearchParams(address)), has);
  assert.deepEqual(back, { state, dropped: [] });
  const odd = decoded(
    { pin: "mlp0@4,nowhere@9", open: "gone", group: "{", share: "7", label: '[["x","y"]]', ...ODD },
    has,
  );
  const moved = { "mlp1@4": [1000, 0] };
  assert.deepEqual(odd.state, { ...START, pinned: ["mlp0@4"], moved });
  assert.deepEqual(odd.dropped.sort(), ["gone", "nobody", "nowhere@9", "x", "{"].sort());
  assert.deepEqual(encoded(START), {});
});

test("a saved graph is read again with its pins, groups and labels; labels hold tokens and positions", () => {
  const state = labelled(
    grouped({ ...WHOLE, pinned: ["mlp1@4"] }, ["L0H0@4", "L0H1@4"], "heads"),
    "mlp0@4",
    "mine",
  );
  const file = fileOf(made, shown(made, state), state);
  assert.equal(
    file.nodes.find((node) => node.node_id === "mlp1@4")?.clerp,
    `mlp1 at 4 ${answer.tokens[4]?.name}`,
  );
  assert.deepEqual(file.qParams.supernodes, [["heads", "L0H0@4", "L0H1@4"]]);
  const back = read(JSON.stringify(file));
  assert.deepEqual(
    [back.state.groups, back.state.labels, back.state.pinned],
    [state.groups, state.labels, state.pinned],
  );
  const [one, other] = [shown(made, state), shown(back.material, back.state)];
  near(one.value, other.value);
  for (const [key, pair] of graphOf(made.paths).pairs)
    near(graphOf(back.material.paths).pairs.get(key)?.value ?? Number.NaN, pair.value);
  assert.throws(() => read("{}"), /no nodes and links/);
});

test("a graph's drawing has every node and link, and pairs that meet in joints", () => {
  const { graph } = shown(made, WHOLE);
  const look = {
    width: 800,
    measure: estimate,
    tokens: made.tokens,
    open: "",
    pinned: new Set<string>(),
    name: (node: { label: string }) => node.label,
  };
  const drawn = sketch(graph, look);
  const file = source(drawn.shape);
  assert.equal(file.match(/data-node=/g)?.length, graph.nodes.size);
  assert.ok(
    drawn.joints.length > 0 && drawn.joints.every((joint) => graph.pairs.size && joint.value !== 0),
  );
  const { spots, height, width } = drawn.places;
  for (const spot of spots.values())
    assert.ok(spot.x > 0 && spot.x < width && spot.y > 0 && spot.y < height);
  const above = [...graph.links.values()].filter(
    ({ source, target }) => (spots.get(source)?.y ?? 0) <= (spots.get(target)?.y ?? 0),
  );
  assert.deepEqual(above, []);
  const places = [...spots.values()].map((spot) => `${spot.x.toFixed(1)} ${spot.y}`);
  assert.equal(new Set(places).size, places.length);
});

test("paths are written as Python writes them", () => {
  const nodes = [
    { s: "embed", t: 0 },
    { s: "L0H1", t: 1, k: "apply", i: [0], a: [0] },
    { s: "1", t: -1, k: "one" },
    { s: "mlp0", t: 1, k: "apply", i: [2, 1] },
  ];
  const tokens = ["␣a", "b"].map((name, id) => ({ name, id }));
  const tree = new Tree({ nodes, tokens, terms: [[1, 3]] } as unknown as Answer);
  assert.equal(tree.path(0), "mlp0(1, L0H1@0 ␣a→1 b(embed))");
});

test("a node that was moved stands there, inside the drawing; a file keeps it", () => {
  const draw = (state: GraphState) =>
    sketch(shown(made, state).graph, {
      width: 600,
      measure: estimate,
      tokens: made.tokens,
      open: "",
      pinned: new Set(),
      moved: state.moved,
      name: (node) => node.label,
    }).places;
  const own = draw(WHOLE);
  const state = movedBy(movedBy(WHOLE, "mlp0@4", [-100, -50]), "embed@2", [-900, 900]);
  const places = draw(state);
  const [before, after] = [own.spots.get("mlp0@4"), places.spots.get("mlp0@4")];
  near(after?.x ?? 0, (before?.x ?? 0) - 0.1 * own.width);
  near(after?.y ?? 0, (before?.y ?? 0) - 0.05 * own.height);
  const far = places.spots.get("embed@2") ?? assert.fail();
  assert.ok(far.x >= 0 && far.y <= places.height);
  assert.deepEqual(places.spots.get("mlp1@4"), own.spots.get("mlp1@4"));
  const file = fileOf(made, shown(made, state), state);
  assert.deepEqual(file.qParams.moved?.[0], ["mlp0@4", -100, -50]);
  assert.deepEqual(read(JSON.stringify(file)).state.moved, state.moved);
  assert.deepEqual(movedBy(state, "mlp0@4", [100, 50]).moved, { "embed@2": [-900, 900] });
});

test("a graph without a path is drawn too", () => {
  const none: Material = { ...made, paths: [] };
  assert.equal(shown(none, START).rest, none.total);
  assert.ok(
    sketch(shown(none, START).graph, {
      width: 300,
      measure: estimate,
      tokens: [],
      open: "",
      pinned: new Set(),
      name: () => "",
    }).shape,
  );
});

test("a graph of another tool is read: its groups, pins and labels, its logits as targets", () => {
  const node = (id: string, layer: string, more: object = {}): object => ({
    node_id: id,
    feature: 1,
    layer,
    ctx_idx: 0,
    feature_type: "cross layer transcoder",
    clerp: "",
    influence: 0.5,
    is_target_logit: false,
    ...more,
  });
  const file = {
    metadata: { prompt: "a", prompt_tokens: ["a"] },
    qParams: {
      pinnedIds: ["2_1_0", "3_0_0"],
      supernodes: [["Texas", "0_1_0", "1_1_0"]],
      clerps: [["2_1_0", "own"]],
      linkType: "both",
      clickedId: "0_1_0",
      sg_pos: "",
    },
    nodes: [
      node("0_1_0", "0"),
      node("1_1_0", "1"),
      node("2_1_0", "2"),
      node("3_0_0", "3", { feature_type: "logit", is_target_logit: true, clerp: "out" }),
    ],
    links: [
      { source: "0_1_0", target: "2_1_0", weight: 2 },
      { source: "1_1_0", target: "2_1_0", weight: -0.5 },
      { source: "2_1_0", target: "3_0_0", weight: 4 },
      { source: "gone", target: "3_0_0", weight: 9 },
    ],
  };
  const { material: found, state } = read(JSON.stringify(file));
  assert.deepEqual(
    [state.open, state.pinned, state.labels],
    [groupId(0), ["2_1_0"], { "2_1_0": "own" }],
  );
  const now = shown(found, state);
  assert.equal(now.graph.links.get(`${groupId(0)}\n2_1_0`)?.weight, 1.5);
  assert.equal(now.value, 4);
  assert.equal(now.graph.nodes.get(groupId(0))?.layer, 1);
});

test("a sub-graph is saved as it is drawn: pinned nodes, groups by their nodes, nothing else", () => {
  const state = {
    ...grouped({ ...WHOLE, pinned: ["mlp1@4"] }, ["L0H0@4", "L0H1@4"], "heads"),
    only: true,
  };
  const file = fileOf(made, shown(made, state), state);
  assert.deepEqual(file.nodes.map((node) => node.node_id).sort(), [
    "L0H0@4",
    "L0H1@4",
    "mlp1@4",
    TARGET,
  ]);
  const ids = new Set(file.nodes.map((node) => node.node_id));
  assert.ok(
    file.links.length > 0 &&
      file.links.every((link) => ids.has(link.source) && ids.has(link.target)),
  );
});
