// What nodes and pairs are called: as the reader labelled them, with tokens beside positions.

import type { GraphNode, Pair, Place } from "./data";
import type { GraphState } from "./state";

/** What a node is and where, with its token. */
export function named(node: Pick<Place, "label" | "position">, tokens: readonly string[]): string {
  return `${node.label} at ${node.position} ${tokens[node.position] ?? ""}`.trimEnd();
}

export class Names {
  constructor(
    private readonly nodes: ReadonlyMap<string, GraphNode>,
    private readonly labels: GraphState["labels"],
    readonly tokens: readonly string[],
  ) {}

  /** A node without its position. */
  readonly name = (node: GraphNode): string => this.labels[node.id] ?? node.label;

  /** The node of that id, with its position. */
  full(id: string): string {
    const node = this.nodes.get(id);
    return node ? named({ ...node, label: this.name(node) }, this.tokens) : id;
  }

  /** Both sides of a pair, and the layer that multiplies them unless `inside` is that. */
  pair({ node, left, right }: Pick<Pair, "node" | "left" | "right">, inside = ""): string {
    const two = `${this.full(left)} × ${this.full(right)}`;
    return node === inside ? two : `${two} in ${this.full(node)}`;
  }
}
