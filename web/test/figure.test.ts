import assert from "node:assert/strict";
import { test } from "node:test";
import { csv, figureTable, fileName, rowsTable } from "../src/export";
import type { Figure, Trace } from "../src/figure/data";
import { powerOfTen, tickTexts } from "../src/figure/numbers";
import { scaleOf } from "../src/figure/scale";
import { type Scene, scene } from "../src/figure/scene";
import { estimate } from "../src/figure/text";
import { said } from "../src/figure/words";
import { type Shape, source, svgFile } from "../src/svg";

const room = { width: 700, height: 340, measure: estimate, paint: () => null };
const draw = (figure: Figure, width = 700): Scene => scene(figure, { ...room, width });

function all(shape: Shape, tag: string): Shape[] {
  const inside = shape.children.flatMap((child) =>
    typeof child === "string" ? [] : all(child, tag),
  );
  return shape.tag === tag ? [shape, ...inside] : inside;
}

function texts(shape: Shape): string[] {
  return all(shape, "text").map((one) => one.children.join(""));
}

const number = (shape: Shape | undefined, name: string): number => Number(shape?.attributes[name]);

const ranking: Figure = {
  data: [
    {
      type: "bar",
      orientation: "h",
      x: [2, -1, 0.5],
      y: [0, 1, 2],
      marker: { color: ["#0072B2", "#D55E00", "#0072B2"] },
      customdata: [
        ["a", "2"],
        ["&lt;b&gt;", "-1"],
        ["c", "0.5"],
      ],
      hovertemplate: "%{customdata[0]}<br>adds: %{customdata[1]}<extra></extra>",
    },
  ],
  layout: {
    title: { text: "t" },
    height: 300,
    xaxis: { title: { text: "what it adds" } },
    yaxis: { tickvals: [0, 1, 2], ticktext: ["a", "&lt;b&gt;", "c"], autorange: "reversed" },
  },
};

test("bars are as long as their values, from zero, the first on top, in their colours", () => {
  const drawn = draw(ranking);
  const bars = all(drawn.shape, "rect");
  const wide = bars.map((bar) => number(bar, "width"));
  assert.ok(Math.abs((wide[0] ?? 0) / (wide[1] ?? 1) - 2) < 1e-9);
  assert.ok(Math.abs((wide[0] ?? 0) / (wide[2] ?? 1) - 4) < 1e-9);
  assert.ok(Math.abs(number(bars[1], "x") + (wide[1] ?? 0) - number(bars[0], "x")) < 1e-9);
  assert.ok(number(bars[0], "y") < number(bars[1], "y"));
  assert.deepEqual(
    bars.map((bar) => bar.attributes["fill"]),
    ["#0072B2", "#D55E00", "#0072B2"],
  );
  assert.ok(texts(drawn.shape).includes("<b>"));
  assert.deepEqual(drawn.zones[0]?.spot(1).lines, ["<b>", "adds: -1"]);
});

test("what is pointed at, and what keys walk to, is the mark that is there", () => {
  const zone = draw(ranking).zones[0];
  const { x, y, wide, high } = zone?.spot(1) ?? assert.fail();
  assert.deepEqual(zone?.hit(x + wide / 2, y + high / 2), { n: 1, away: 0 });
  assert.equal(zone?.next(0, "down"), 1);
  assert.equal(zone?.next(0, "up"), null);
  assert.equal(zone?.next(0, "right"), null);
});

const map: Figure = {
  data: [
    {
      type: "heatmap",
      z: [
        [1, null],
        [-2, 0],
      ],
      x: [0, 1],
      y: [0, 1],
      zmin: -2,
      zmax: 2,
      colorscale: [
        [0, "#D55E00"],
        [0.5, "#ffffff"],
        [1, "#0072B2"],
      ],
      text: [
        ["one", ""],
        ["minus two", "none"],
      ],
      customdata: [
        [
          ["q0", "k0"],
          ["q0", "k1"],
        ],
        [
          ["q1", "k0"],
          ["q1", "k1"],
        ],
      ],
      hovertemplate: "%{customdata[0]} · %{customdata[1]}<br>w: %{z:.4~g}<extra></extra>",
      colorbar: { title: { text: "w" } },
    },
  ],
  layout: {
    xaxis: { tickvals: [0, 1], ticktext: ["k0", "k1"] },
    yaxis: { tickvals: [0, 1], ticktext: ["q0", "q1"], autorange: "reversed" },
  },
};

test("a heat map has a cell for each value, white at zero, none where none is", () => {
  const drawn = draw(map);
  const cells = all(
    all(drawn.shape, "g").find((one) => one.attributes["shape-rendering"]) ?? assert.fail(),
    "rect",
  );
  assert.deepEqual(
    cells.map((cell) => cell.attributes["fill"]),
    ["#80b9d9", "#d55e00", "#ffffff"],
  );
  const zone = drawn.zones[0] ?? assert.fail();
  assert.deepEqual(zone.spot(2).lines, ["q1 · k0", "w: −2"]);
  assert.ok(zone.spot(0).y < zone.spot(2).y);
  assert.equal(zone.next(0, "down"), 2);
  assert.equal(zone.next(0, "up"), null);
  const { x, y, wide, high } = zone.spot(3);
  assert.equal(zone.hit(x + wide / 2, y + high / 2).n, 3);
  assert.ok(texts(drawn.shape).includes("minus two"));
});

test("a large heat map is one image, whose rows are those of its cells", () => {
  const z = Array.from({ length: 80 }, (_, r) =>
    Array.from({ length: 70 }, (_, c) => (r === 0 && c === 1 ? 2 : 0)),
  );
  let pixels = new Uint8ClampedArray();
  const paint = (
    rows: number,
    columns: number,
    fill: (pixels: Uint8ClampedArray) => void,
  ): string => {
    pixels = new Uint8ClampedArray(4 * rows * columns);
    fill(pixels);
    return "data:,";
  };
  const figure = { ...map, data: [{ ...map.data[0], type: "heatmap", z, text: [] } as Trace] };
  const drawn = scene(figure, { ...room, paint });
  assert.equal(all(drawn.shape, "image").length, 1);
  assert.deepEqual([...pixels.slice(4, 8)], [0, 0x72, 0xb2, 255]);
  assert.deepEqual([...pixels.slice(8, 12)], [255, 255, 255, 255]);
});

test("points stand where they say, also on logarithmic axes, and lines break where a value is missing", () => {
  const figure: Figure = {
    data: [
      {
        type: "scatter",
        mode: "lines+markers",
        x: [1, 10, 100, 1000],
        y: [1, 2, null, 4],
        name: "n",
      },
    ],
    layout: { xaxis: { type: "log" }, yaxis: { range: [0, 5] } },
  };
  const drawn = draw(figure);
  const points = all(drawn.shape, "circle");
  const x = points.map((point) => number(point, "cx"));
  assert.equal(points.length, 3);
  assert.ok(Math.abs((x[2] ?? 0) - (x[0] ?? 0) - 3 * ((x[1] ?? 0) - (x[0] ?? 0))) < 1e-6);
  const line = all(drawn.shape, "path").find((one) => one.attributes["stroke-linejoin"]);
  assert.match(String(line?.attributes["d"]), /^M[^M]*L[^M]*M[^L]*$/);
  assert.deepEqual(
    scaleOf(figure, "xaxis")
      .ticks(5)
      .map((tick) => tick.text),
    ["1", "10", "100", "1,000"],
  );
});

test("bars are stacked, grouped and cut at what the axis shows", () => {
  const bars = (y: number[]): Trace => ({ type: "bar", x: ["a", "b"], y, name: String(y) });
  const stacked = draw({
    data: [bars([1, 2]), bars([3, 4])],
    layout: { barmode: "stack", showlegend: false },
  });
  const [one, , other] = all(stacked.shape, "rect");
  assert.ok(Math.abs(number(other, "y") + number(other, "height") - number(one, "y")) < 1e-6);
  assert.equal(number(other, "x"), number(one, "x"));
  const grouped = all(
    draw({ data: [bars([1, 2]), bars([3, 4])], layout: { showlegend: false } }).shape,
    "rect",
  );
  assert.ok(
    number(grouped[2], "x") >= number(grouped[0], "x") + number(grouped[0], "width") - 1e-6,
  );
  const cut = all(
    draw({ data: [bars([1, 99])], layout: { yaxis: { range: [0, 2] } } }).shape,
    "rect",
  );
  assert.ok(Math.abs(number(cut[1], "height") - 2 * number(cut[0], "height")) < 1e-6);
});

test("tiles side by side on a screen stand below one another on a phone, inside its width", () => {
  const tile = (n: number): Trace => ({
    ...(map.data[0] as Trace),
    xaxis: `x${n}`,
    yaxis: `y${n}`,
    showscale: n === 1,
  });
  const figure: Figure = {
    data: [tile(1), tile(2)],
    layout: {
      height: 300,
      xaxis1: { domain: [0, 0.45] },
      yaxis1: { domain: [0, 1] },
      xaxis2: { domain: [0.55, 1] },
      yaxis2: { domain: [0, 1] },
      annotations: [
        { text: "one", x: 0.225, y: 1 },
        { text: "two", x: 0.775, y: 1 },
      ],
    },
  };
  const places = (width: number): [number, number][] =>
    draw(figure, width).zones.map((zone) => [zone.spot(0).x, zone.spot(0).y]);
  const [wide, narrow] = [places(900), places(300)];
  assert.equal(wide[0]?.[1], wide[1]?.[1]);
  assert.equal(narrow[0]?.[0], narrow[1]?.[0]);
  const last = draw(figure, 300).zones[1]?.spot(1);
  assert.ok((last?.x ?? 999) + (last?.wide ?? 0) <= 300);
  assert.ok(texts(draw(figure, 300).shape).includes("two"));
});

test("names on an axis stay inside it and never lie on one another", () => {
  const names = Array.from({ length: 60 }, (_, n) => `a long name ${n}`);
  const figure: Figure = {
    data: [{ type: "bar", x: names, y: names.map((_, n) => n) }],
    layout: {},
  };
  const slanted = all(draw(figure).shape, "text").filter((one) =>
    String(one.attributes["transform"]).includes("rotate(-90)"),
  );
  const places = slanted.map((one) =>
    Number(/translate\(([\d.]+)/.exec(String(one.attributes["transform"]))?.[1]),
  );
  assert.ok(places.slice(1).every((place, n) => place - (places[n] ?? 0) >= 11));
});

test("kinds that are not drawn are named", () => {
  assert.ok(
    texts(draw({ data: [{ type: "surface" }], layout: {} }).shape).includes(
      "not drawn here: surface",
    ),
  );
});

test("numbers on axes: powers of ten written out, a true minus, one form for all", () => {
  assert.deepEqual(tickTexts([-0.5, 0, 0.5], 0.5), ["−0.5", "0.0", "0.5"]);
  assert.deepEqual(tickTexts([0, 2e-5, 4e-5], 2e-5), ["0", "2×10⁻⁵", "4×10⁻⁵"]);
  assert.deepEqual(tickTexts([0, 20000], 20000), ["0", "20,000"]);
  assert.deepEqual([-5, 0, 4].map(powerOfTen), ["10⁻⁵", "1", "10⁴"]);
});

const HOSTILE = "</script><b onx='1'>\u202e\u0000\ud800\n";

test("hostile names stay letters, on the page, in files and when pointed at", () => {
  assert.deepEqual(
    said("%{customdata[0]}<br>z: %{z}<extra></extra>", { customdata: [HOSTILE], z: null }),
    ["</script><b onx='1'>\\u202e\\x00\\ud800\\x0a", "z: –"],
  );
  const figure = { ...ranking, layout: { ...ranking.layout, title: { text: HOSTILE } } };
  const file = svgFile(draw(figure).shape, "#757575");
  assert.ok(
    !file.includes("</script>") && !file.includes("<b ") && !/[\u0000\u202e\ud800]/.test(file),
  );
  assert.ok(file.startsWith("<?xml") && file.includes('xmlns="http://www.w3.org/2000/svg"'));
  assert.equal(
    source({ tag: "text", attributes: { a: '"<' }, children: ["&"] }),
    '<text a="&quot;&lt;">&amp;</text>',
  );
});

test("a CSV holds each mark with its name, and no formula", () => {
  assert.deepEqual(figureTable(ranking), {
    columns: ["trace", "what it adds", "y", "says"],
    rows: [
      [0, 2, "a", "a; 2"],
      [0, -1, "<b>", "<b>; -1"],
      [0, 0.5, "c", "c; 0.5"],
    ],
  });
  assert.deepEqual(figureTable(map).rows[2], ["0", "q1", "k0", -2]);
  assert.equal(
    csv({
      columns: ["a", "b"],
      rows: [
        ['x,"y"', "=1+1"],
        [1.5, null],
      ],
    }),
    'a,b\r\n"x,""y""",\'=1+1\r\n1.5,\r\n',
  );
  const rows = [{ b: 1.5, a: "x\u202e" }, { a: null }];
  assert.deepEqual(rowsTable({ columns: ["a", "b"], rows }).rows, [
    ["x\\u202e", 1.5],
    [null, undefined],
  ]);
  assert.equal(fileName("../a b: ␣c/<d>"), "bilens-a-b-c-d");
});
