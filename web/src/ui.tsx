// The small pieces that all views are made of.

import type { JSX } from "preact";
import { printable } from "./text";

/** Text from outside: every character visible, and its direction of writing ends with it. */
export function Text({ children }: { children: string | number }): JSX.Element {
  return <bdi>{printable(String(children))}</bdi>;
}
