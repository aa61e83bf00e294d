import assert from "node:assert/strict";
import { test } from "node:test";
import { fitted } from "../src/fitted";
import { decode, encode, START, type State } from "../src/state";
import { Store } from "../src/store";
import type { BilensDocument } from "../src/types";
import { answer } from "./answer";

const FULL: State = {
  s: "prompt-0",
  prompt: "a & b=c\u202e",
  pos: 3,
  target: "␣girl",
  versus: "⏎",
  view: "graph",
  open: ["mlp1", "mlp1(L1H0@0→1(embed),embed)"],
  through: "@3",
  path: 7,
  head: "L1H0",
  layer: "mlp1",
  out: ["L0H3", "mlp0(embed, embed)"],
  graph: { open: "L1H0@3", pin: "a,b", group: '[["x","y"]]' },
};

const made: BilensDocument = {
  schema: 1,
  bilens: "0",
  title: "t",
  sections: [
    {
      id: "prompt-0",
      kind: "prompt",
      title: "p",
      data: { prompt: "a b", answers: [answer()], first: 0 },
    },
  ],
};

test("an address gives the state back", () => {
  assert.deepEqual(decode(`#${encode(FULL)}`), { state: FULL, dropped: [] });
  assert.equal(encode(START), "");
  assert.deepEqual(decode(""), { state: START, dropped: [] });
  assert.match(encode({ ...START, open: ["mlp1(a,b)"], pos: 2 }), /^v=1&pos=2&open=mlp1\(a,b\)$/);
});

test("what does not read is named, and the rest holds", () => {
  const { state, dropped } = decode("#v=9&pos=x&view=none&colour=red&s=prompt-0&target=%E2%9");
  assert.deepEqual(dropped, ["v=9", "pos=x", "view=none", "colour=red"]);
  assert.deepEqual([state.s, state.target], ["prompt-0", "%E2%9"]);
});

test("half a character in a state does not break an address", () => {
  assert.equal(decode(encode({ ...START, target: "\ud800" })).state.target, "\ufffd");
});

test("what the document has not is dropped with its name", () => {
  assert.deepEqual(fitted({ ...START, s: "prompt-9", pos: 1 }, made), {
    state: START,
    dropped: ["s=prompt-9"],
  });
  const far = fitted({ ...START, s: "prompt-0", pos: 5 }, made);
  assert.deepEqual([far.state.pos, far.dropped], [null, ["pos=5"]]);
  const asked = { ...START, s: "prompt-0", out: ["L0H3"] };
  assert.deepEqual(fitted(asked, made).dropped, ["out=L0H3"]);
  const view = {
    ...START,
    open: ["mlp1", "mlp9"],
    through: "L9H9",
    path: 4,
    head: "L1H0",
    layer: "mlp0",
    graph: { pin: "mlp1@1,gone@5" },
  };
  const kept = fitted(view, made);
  assert.deepEqual(kept.state, {
    ...START,
    open: ["mlp1"],
    head: "L1H0",
    graph: { pin: "mlp1@1" },
  });
  assert.deepEqual(kept.dropped, [
    "through=L9H9",
    "layer=mlp0",
    "path=4",
    "open=mlp9",
    "pin=mlp1@1,gone@5",
  ]);
  assert.deepEqual(fitted(asked, { ...made, live: { ask: "api/ask" } }), {
    state: asked,
    dropped: [],
  });
});

test("steps are undone and done again; a new one ends the future", () => {
  const store = new Store();
  let told = 0;
  store.listen(() => (told += 1));
  store.set({ pos: 1 });
  store.set({ pos: 1 }); // nothing new
  store.set({ pos: 2 });
  store.undo();
  assert.equal(store.state.pos, 1);
  store.redo();
  assert.equal(store.state.pos, 2);
  store.undo();
  store.set({ view: "lens" });
  assert.deepEqual([store.canRedo, store.canUndo, told], [false, true, 6]);
  store.undo();
  store.undo();
  store.undo();
  assert.deepEqual(store.state, START);
});
