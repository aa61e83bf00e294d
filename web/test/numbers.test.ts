import assert from "node:assert/strict";
import { test } from "node:test";
import { formatted, general, signed } from "../src/numbers";

test("numbers are written as Python's %g writes them", () => {
  const cases: [number, number, string][] = [
    [0, 6, "0"],
    [1, 6, "1"],
    [-2.5, 6, "-2.5"],
    [123456.7, 6, "123457"],
    [1234567, 6, "1.23457e+06"],
    [0.0001, 6, "0.0001"],
    [0.00001234, 3, "1.23e-05"],
    [9.9999999, 4, "10"],
    [0.30000000000000004, 6, "0.3"],
    [1e100, 4, "1e+100"],
    [-1e-7, 4, "-1e-07"],
    [100, 2, "1e+02"],
  ];
  for (const [value, digits, text] of cases) assert.equal(general(value, digits), text);
  assert.deepEqual([signed(0.5), signed(-0.5), signed(0)], ["+0.5", "-0.5", "+0"]);
  assert.deepEqual(
    [formatted(null), formatted(true), formatted(3), formatted(0.1234567)],
    ["–", "yes", "3", "0.123457"],
  );
});
