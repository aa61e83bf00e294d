import assert from "node:assert/strict";
import { test } from "node:test";
import { row } from "../src/packed";

test("numbers come back as they were packed, and plain ones as they are", () => {
  const held = { scale: 0.5, rows: ["AQD+/w=="] };
  assert.deepEqual(row(held, 0), [0.5, -1]);
  assert.deepEqual(row([[3], [4]], 1), [4]);
});
