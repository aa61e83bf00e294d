import assert from "node:assert/strict";
import { test } from "node:test";
import { type Branch, lit, starts, through, Tree } from "../src/prompt/tree";
import { answer } from "./answer";

test("every branch is the sum of what is below it, down to single paths", () => {
  const tree = new Tree(answer());
  const check = (branch: Branch): void => {
    const below = tree.below(branch);
    if (!below.length) return assert.equal(branch.terms.length, 1);
    assert.ok(Math.abs(tree.sum(below.flatMap((one) => one.terms)) - branch.value) < 1e-12);
    assert.deepEqual(below.flatMap((one) => one.terms).sort(), [...branch.terms].sort());
    below.forEach(check);
  };
  const top = tree.top();
  assert.deepEqual(
    top.map(({ key, value }) => [key, value]),
    [
      ["mlp1", 2],
      ["L1H0@0→1(embed)", -1],
      ["embed", 0.5],
    ],
  );
  top.forEach(check);
});

test("a branch is named by how its paths begin, one path by all of it", () => {
  const tree = new Tree(answer());
  const [mlp] = tree.top();
  const below = tree.below(mlp as Branch);
  assert.deepEqual(
    below.map((one) => one.key),
    ["mlp1(embed,embed)", "mlp1(L1H0@0→1(embed),embed)"],
  );
  assert.equal(below[1]?.label, "mlp1(L1H0@0 a→1 ␣b(embed), embed)");
});

test("a head by its legs names them, and looks where its values stand", () => {
  const made = answer();
  const legs = ["q1", "k1", "v"];
  made.nodes[3] = { s: "L1H0", t: 1, k: "apply", i: [0, 2, 2], a: [1, 0, 0], legs };
  const tree = new Tree(made);
  assert.equal(tree.path(1), "L1H0@0 a→1 ␣b(q1: embed, k1: embed, v: embed)");
  assert.deepEqual(through(made, "L1H0@0→1"), [1, 2]);
  assert.deepEqual(through(made, "L1H0@1→1"), []);
});

test("of a head's five legs those that read the same are said once", () => {
  const made = answer();
  const legs = ["q1", "k1", "q2", "k2", "v"];
  const at = [1, 0, 1, 0, 0];
  made.nodes[3] = { s: "L1H0", t: 1, k: "apply", i: [0, 2, 0, 2, 2], a: at, legs };
  made.nodes[4] = { s: "L2H0", t: 1, k: "apply", i: [0, 3, 0, 2, 2], a: at, legs };
  const tree = new Tree(made);
  assert.equal(tree.path(1), "L1H0@0 a→1 ␣b(all: embed)");
  const inner = "L1H0@0 a→1 ␣b(all: embed)";
  assert.equal(tree.path(2), `L2H0@0 a→1 ␣b(k1: ${inner}, others: embed)`);
  const plain = "L1H0@0→1(q1: embed,k1: embed,q2: embed,k2: embed,v: embed)";
  assert.equal(tree.plain(1), plain);
});

test("tokens get what starts at them, in equal parts", () => {
  const made = answer();
  assert.deepEqual(starts(made), [[1], [0], [0, 1], [1]]);
  assert.deepEqual(lit(made, [0, 1, 2, 3]), [-1.25, 2.75]);
  assert.deepEqual(through(made, "@0"), [1, 2]);
  assert.deepEqual(through(made, "L1H0"), [1, 2]);
  assert.deepEqual(through(made, ""), [0, 1, 2, 3]);
  assert.deepEqual(
    [through(made, "L1H0@0→1"), through(made, "L1H0@1→1"), through(made, "mlp1@0→1")],
    [[1, 2], [], []],
  );
});

test("a path that is not taken apart to the end starts at no token", () => {
  const made = answer();
  made.nodes[0] = { s: "L1H0", t: 1 };
  assert.deepEqual(starts(made), [[], [0], [], []]);
});
