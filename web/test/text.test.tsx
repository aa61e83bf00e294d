import assert from "node:assert/strict";
import { test } from "node:test";
import { renderToString } from "preact-render-to-string";
import { said } from "../src/figure/words";
import { printable } from "../src/text";
import { Text } from "../src/ui";

test("what shows nothing is written out, as Python does it", () => {
  assert.equal(printable("a\x1b[31m\u202e\ud800\n"), "a\\x1b[31m\\u202e\\ud800\\x0a");
  assert.equal(printable("\u{e0001} 女é"), "\\U000e0001 女é");
});

test("text is letters, and its direction ends with it", () => {
  const shown = renderToString(<Text>{"</script><b>\u202e\0"}</Text>);
  assert.equal(shown, "<bdi>&lt;/script>&lt;b>\\u202e\\x00</bdi>");
});

test("what plotly would read as markup is letters again", () => {
  assert.deepEqual(said("&lt;b&gt;&amp;lt; a<br>b<extra></extra>", {}), ["<b>&lt; a", "b"]);
});
