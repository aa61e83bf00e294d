import assert from "node:assert/strict";
import { test } from "node:test";
import { options } from "preact";
import { renderToString } from "preact-render-to-string";
import { App } from "../src/app";
import { asked, pythonFor, stored } from "../src/prompt/asked";
import { barFigure, pairFigure, pairValue, strongest } from "../src/prompt/figures";
import { told } from "../src/prompt/lens";
import { Pattern, pattern } from "../src/prompt/patterns";
import { unfolded } from "../src/prompt/tree";
import { everything, found } from "../src/search";
import { START } from "../src/state";
import { Store } from "../src/store";
import type { Answer, BilensDocument, PromptData } from "../src/types";
import { answer } from "./answer";

const NASTY = "</script><b>\u202e\0\ud800";

(options as { errorBoundaries?: boolean }).errorBoundaries = true; // as in a browser

function documentOf(...answers: Answer[]): BilensDocument {
  const data = { prompt: "a b", answers, first: 0 };
  return {
    schema: 1,
    bilens: "0",
    title: NASTY,
    sections: [{ id: "prompt-0", kind: "prompt", title: NASTY, data }],
  };
}

function drawn(made: BilensDocument, store = new Store()): string {
  return renderToString(<App made={made} store={store} root={null as unknown as HTMLElement} />);
}

test("names of tokens are letters wherever they stand", () => {
  const made = answer();
  made.tokens[0] = { name: NASTY, id: 1 };
  made.target = { name: NASTY, id: 2 };
  made.sources[0] = { ...made.sources[0]!, label: NASTY };
  made.summary = NASTY;
  made.lens!.says[0] = [NASTY, NASTY];
  for (const view of ["paths", "attention", "lens", "pairs"] as const) {
    const html = drawn(documentOf(made), new Store({ ...START, s: "prompt-0", view, path: 2 }));
    assert.doesNotMatch(html, /<b>\\|<script|\u202e|\0|\ud800/);
    assert.match(html, /&lt;\/script>&lt;b>\\u202e\\x00\\ud800/);
  }
});

test("the sum closes on the page: all lines, the remainder and the total", () => {
  const html = drawn(documentOf(answer()));
  const lines = [...html.matchAll(/data-value="([^"]+)"/g)].map((one) => Number(one[1]));
  assert.ok(
    Math.abs(lines.reduce((one, other) => one + other, 0) + answer().remainder - answer().total) <
      1e-12,
  );
  assert.match(html, /3 paths that were not kept/);
});

test("what was not tried, and what is not drawn, is told with a line that gives it", () => {
  const most = { ...answer(), tried: [1, 300] as [number, number], python_effects: "effects(…)" };
  const html = drawn(documentOf(most));
  assert.match(html, /told of the 1 parts that write most, of 300/);
  assert.equal(html.match(/Copy as Python/g)?.length, 2);
  assert.doesNotMatch(drawn(documentOf(answer())), /that write most, of/);
  const [first, ...rest] = answer().pairs!;
  const pairs = [{ ...first!, others: { count: 280, value: 0.25 } }, ...rest];
  const told = { ...answer(), pairs, python_pairs: "pairs(…)" };
  const state = { ...START, s: "prompt-0", view: "pairs", layer: first!.layer } as const;
  const drawnPairs = drawn(documentOf(told), new Store(state));
  assert.match(drawnPairs, /the pairs of the other 280 add 0\.25/);
  assert.equal(drawnPairs.match(/Copy as Python/g)?.length, 2);
});

test("a view that fails shows its error, and a section that nobody knows is named", () => {
  const made = documentOf({ ...answer(), sources: null as unknown as [] });
  made.sections.push({ id: "x-0", kind: "x" as "missing", title: "X", data: { text: "" } });
  const html = drawn(made);
  assert.match(html, /This part could not be made/);
  assert.match(html, /no section of kind x/);
});

test("what a file holds is found by position, target and contrast", () => {
  const one = answer();
  const other = { ...answer(), versus: { name: "␣d", id: 8 } };
  const data: PromptData = { prompt: "a b", answers: [one, other], first: 0 };
  assert.equal(stored(asked(START, data), data), one);
  assert.equal(stored(asked({ ...START, target: "␣c", versus: "␣d" }, data), data), other);
  assert.equal(stored(asked({ ...START, target: "␣d" }, data), data), null);
  assert.equal(stored(asked({ ...START, pos: 0 }, data), data), null);
  assert.equal(stored(asked({ ...START, pos: 1, target: "" }, data), data), one);
});

test("a contrast that is typed alone is held against the target that is shown", () => {
  const one = answer();
  const data: PromptData = { prompt: "a b", answers: [one], first: 0 };
  const what = asked({ ...START, versus: "␣dog" }, data);
  assert.deepEqual([what.target, what.versus], [one.target.name, "␣dog"]);
});

test("what it does not hold is asked in Python", () => {
  const line = pythonFor({ position: 3, target: "␣it's", versus: "⏎" }, 'say "a"\n', {
    name: "m",
    kind: "language",
  });
  assert.equal(
    line,
    String.raw`ex = bilens.expand(bilens.load('m'), 'say "a"\n', (' it\'s', '\n'), position=3)`,
  );
  assert.match(
    pythonFor({ position: 0, target: "�#128", versus: "" }, "a", null),
    /model, 'a', 128, position=0/,
  );
});

test("a triangle has each pair once; a cell leads to the order that the tree has", () => {
  const made = answer();
  const matrix = made.pairs![0]!;
  assert.deepEqual([pairValue(matrix, 0, 1), pairValue(matrix, 1, 0)], [-0.5, -0.5]);
  assert.deepEqual(pairFigure(made, matrix, [0, 1]).data[0]?.z, [
    [2.5, null],
    [-0.5, 0.1],
  ]);
  assert.deepEqual(strongest(matrix, 1), [0]);
  assert.deepEqual(unfolded(made, "mlp1", "mlp1(embed,embed)", "mlp1(gone,embed)").open, ["mlp1"]);
  assert.equal(unfolded(made, "mlp1", "mlp1(embed,embed)").path, 0);
});

test("patterns are rows of a triangle", () => {
  const held = pattern(answer().patterns, "L1H0");
  assert.deepEqual(
    [held?.row(1, 2), held?.row(0, 2)],
    [
      [0.75, 0.25],
      [1, 0],
    ],
  );
  assert.equal(pattern(answer().patterns, "L9H9"), null);
});

test("tokens, parts and paths are found by pieces of their names", () => {
  const made = documentOf(answer());
  const names = (words: string) =>
    found(everything(made, START), words).map((hit) => [hit.kind, hit.name]);
  assert.deepEqual(names("mlp1 l1h0"), [["path", "mlp1(L1H0@0 a→1 ␣b(embed), embed)"]]);
  assert.deepEqual(names("␣b at"), [["token", "␣b at 1"]]);
  assert.equal(names("nothing").length + names("  ").length, 0);
});

test("bars are in the colour of their sign", () => {
  assert.deepEqual(barFigure("t", ["a", "b"], [1, -1], "u").data[0]?.marker?.color, [
    "#0072B2",
    "#D55E00",
  ]);
});

test("a rank is told as it is sent, from 1 on, and of what the model says in the end", () => {
  const made = answer();
  assert.equal(
    told(made, made.lens!, [0, 1]),
    "After embed at 1 ␣b: y with 20 %; '␣c' has 1; " +
      "what the model says here in the end, ␣c, is rank 5.",
  );
  assert.match(told(made, made.lens!, [1, 1]), /is rank 1\.$/);
  const state = { ...START, s: "prompt-0", view: "lens" } as const;
  assert.match(drawn(documentOf(made), new Store(state)), /0 %.*class="ramp lit".*100 %/);
});

test("both ways of taking out have their value and their verdict", () => {
  const html = drawn(documentOf(answer()));
  assert.match(html, /zero in its place.*its mean in its place/);
  const row = /<tr><th scope="row">(?:(?!<tr>).)*?L1H0.*?<\/tr>/.exec(html)![0];
  const cells = [...row.matchAll(/<td[^>]*>(.*?)<\/td>/g)].map((one) =>
    one[1]!.replace(/<[^>]*>/g, "").trim(),
  );
  assert.deepEqual(cells.filter(Boolean), [
    "-1",
    "+0.5",
    "✗ reversed",
    "-0.75",
    "-0.5",
    "✓ confirmed",
  ]);
});

test("where nothing can change, no verdict is good or bad", () => {
  const made = answer();
  const sources = made.sources.map((row) => ({ ...row, verdict: "nothing either way" }));
  const html = drawn(documentOf({ ...made, sources }));
  assert.match(html, /class="link verdict "[^>]*>– nothing either way</);
  assert.doesNotMatch(html, /✗ nothing/);
});

test("what is given is told in Python's words", () => {
  const made = { ...answer(), held: "33 patterns, norm scales and gates" };
  assert.match(drawn(documentOf(made)), /Given: 33 patterns, norm scales and gates</);
});

test("the page says in how far its layers are tensors, where that is told", () => {
  const made = { ...documentOf(answer()), about: "It is quadratic." };
  assert.match(drawn(made), /It is quadratic\.<\/bdi> Everything below is exact/);
  assert.doesNotMatch(drawn(documentOf(answer())), /third-order/);
});

test("a live page without an answer has its input, and says why", () => {
  const made = documentOf();
  made.live = { ask: "api/ask" };
  const [section] = made.sections;
  assert.ok(section?.kind === "prompt");
  section.data.error = "too large";
  const html = drawn(made);
  assert.match(html, /<textarea/);
  assert.match(html, /role="alert"><bdi>too large/);
  assert.doesNotMatch(html, /could not be made/);
});

test("weights of either sign have a scale of their own", () => {
  const shares = new Pattern([1, 0.75, 0.25]);
  assert.deepEqual([shares.shares, shares.end], [true, 1]);
  const signed = new Pattern([0.5, -3, 2]);
  assert.deepEqual([signed.shares, signed.end], [false, 3]);
  const state = { ...START, s: "prompt-0", view: "attention" } as const;
  const made = answer();
  assert.match(drawn(documentOf(made), new Store(state)), />0<.*ramp shares.*>1</);
  made.patterns!.weights = [[0.5, -3, 2]];
  assert.match(drawn(documentOf(made), new Store(state)), />-3<.*ramp both.*>\+3</);
  assert.match(drawn(documentOf(made), new Store(state)), /Looks most at 0 a \(-3\)/);
});
