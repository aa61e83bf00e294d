// Elements of a page, made without markup: text stays text.

export type Child = Node | string;

export interface Attributes {
  readonly [name: string]: string | boolean | ((event: Event) => void) | undefined;
}

/** An element with its attributes, what happens on events (`onclick`), and what is in it. */
export function dom<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (typeof value === "string") made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Text from outside, whose direction of writing ends with it. */
export function isolated(text: string): HTMLElement {
  return dom("bdi", {}, text);
}

export function button(text: string, action: () => void, more: Attributes = {}): HTMLButtonElement {
  return dom("button", { type: "button", onclick: action, ...more }, text);
}
