// Drawings as plain values: one description that the page shows, files hold and tests read.

export type Attributes = Readonly<Record<string, string | number>>;

export interface Shape {
  readonly tag: string;
  readonly attributes: Attributes;
  readonly children: readonly (Shape | string)[];
}

const SVG = "http://www.w3.org/2000/svg";
const ESCAPED: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
};

/** A shape of SVG, its numbers cut to hundredths of a pixel. */
export function h(
  tag: string,
  attributes: Attributes = {},
  ...children: (Shape | string)[]
): Shape {
  return { tag, attributes, children };
}

/** As elements of the page: text stays text, whatever it holds. */
export function element(shape: Shape): SVGElement {
  const made = document.createElementNS(SVG, shape.tag);
  for (const [name, value] of Object.entries(shape.attributes))
    made.setAttribute(name, written(value));
  for (const child of shape.children)
    made.append(typeof child === "string" ? child : element(child));
  return made;
}

/** As the text of a file. */
export function source(shape: Shape): string {
  const attributes = Object.entries(shape.attributes)
    .map(([name, value]) => ` ${name}="${escaped(written(value))}"`)
    .join("");
  const inside = shape.children.map((one) =>
    typeof one === "string" ? escaped(one) : source(one),
  );
  return inside.length
    ? `<${shape.tag}${attributes}>${inside.join("")}</${shape.tag}>`
    : `<${shape.tag}${attributes}/>`;
}

/** A whole file of SVG: words in grey that reads alike on light and dark paper. */
export function svgFile(shape: Shape, ink: string): string {
  const attributes = {
    xmlns: SVG,
    color: ink,
    "font-family": "system-ui, sans-serif",
    ...shape.attributes,
  };
  return `<?xml version="1.0" encoding="UTF-8"?>\n${source({ ...shape, attributes })}\n`;
}

function written(value: string | number): string {
  return typeof value === "number" ? String(Math.round(value * 100) / 100) : value;
}

function escaped(text: string): string {
  return text.replace(/[&<>"]/g, (letter) => ESCAPED[letter] ?? letter);
}
