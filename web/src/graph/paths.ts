// A path as it is read, as Python's circuits.paths.text writes it.

import type { Node } from "../types";

/** `mlp1(L0H3@5 ␣sat→9 ␣mat(embed), mlp0(embed, embed))`: a path with its token beside each position. */
export function pathText(nodes: readonly Node[], root: number, tokens: readonly string[]): string {
  const node = nodes[root];
  if (!node) return "?";
  if (node.k === "one") return "1";
  if (node.k === "stream") return "x";
  if (node.k === "latent") return node.l ?? "?";
  if (!node.i?.length) return node.s;
  const look = node.a?.length
    ? `@${node.a.map((at) => placed(at, tokens)).join(",")}→${placed(node.t, tokens)}`
    : "";
  return `${node.s}${look}(${node.i.map((child) => pathText(nodes, child, tokens)).join(", ")})`;
}

function placed(position: number, tokens: readonly string[]): string {
  return tokens[position] === undefined ? String(position) : `${position} ${tokens[position]}`;
}
