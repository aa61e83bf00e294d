// Draws the figures of results, which are data in plotly's JSON shape, as SVG.

import { dom, isolated } from "./dom";
import { exportTools } from "./export";
import type { Figure } from "./figure/data";
import type { Paint } from "./figure/place";
import { scene, type Scene } from "./figure/scene";
import { measured } from "./figure/text";
import type { Spot, Step, Zone } from "./figure/zones";
import { element, h } from "./svg";
import type { Drawing } from "./types";

export interface Options extends Drawing {
  name?: string; // of the files it is saved in
  onPick?: (spot: Spot) => void; // a mark was clicked, or entered
}

const STEPS: Readonly<Record<string, Step>> = {
  ArrowLeft: "left",
  ArrowRight: "right",
  ArrowUp: "up",
  ArrowDown: "down",
};
const NARROWEST = 240;
const drawn = new WeakMap<HTMLElement, FigureView>();

/** Draws `figure` into `element`, in place of what was there, and again when its width changes. */
export function drawFigure(element: HTMLElement, figure: Figure, drawing: Options): void {
  drawn.get(element)?.end();
  drawn.set(element, new FigureView(element, figure, drawing));
}

/** A figure on the page: what is pointed at, or walked to by keys, says what it is. */
class FigureView {
  private readonly place = dom("div", { class: "figure-place" });
  private readonly tip = dom("div", { class: "figure-tip", role: "status", hidden: true });
  private readonly observer = new ResizeObserver(() => this.draw());
  private scene: Scene | null = null;
  private zone = -1;
  private mark = -1;

  constructor(
    private readonly box: HTMLElement,
    private readonly figure: Figure,
    private readonly drawing: Options,
  ) {
    box.classList.add("figure");
    const tools = exportTools(
      drawing.name ?? drawing.spoken,
      () => this.scene?.shape ?? null,
      figure,
      box,
    );
    box.replaceChildren(this.place, this.tip, tools);
    this.listen();
    this.draw();
    this.observer.observe(box);
  }

  end(): void {
    this.observer.disconnect();
  }

  private listen(): void {
    this.place.addEventListener("pointermove", (event) => this.point(event));
    this.place.addEventListener("pointerdown", (event) => this.point(event));
    this.place.addEventListener("pointerleave", () => this.show(-1, -1));
    this.place.addEventListener("click", () => this.pick());
    this.place.addEventListener("keydown", (event) => this.key(event));
    this.place.addEventListener("focusout", () => this.show(-1, -1));
  }

  private draw(): void {
    const width = Math.max(NARROWEST, Math.floor(this.box.clientWidth || 700));
    if (this.scene?.width === width) return;
    const family = getComputedStyle(this.box).fontFamily;
    this.scene = scene(this.figure, {
      width,
      height: this.drawing.height,
      measure: measured(family),
      paint,
    });
    const held = this.place.contains(document.activeElement);
    const svg = element(this.scene.shape);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", this.drawing.spoken);
    svg.setAttribute("tabindex", "0");
    this.place.replaceChildren(svg);
    this.show(-1, -1);
    if (held) svg.focus();
  }

  private get zones(): readonly Zone[] {
    return this.scene?.zones ?? [];
  }

  private point(event: PointerEvent): void {
    const frame = this.place.getBoundingClientRect();
    const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    let best = { zone: -1, n: -1, away: Number.POSITIVE_INFINITY };
    this.zones.forEach((one, zone) => {
      const hit = one.hit(x, y);
      if (hit.n >= 0 && hit.away <= best.away) best = { zone, ...hit };
    });
    this.show(best.zone, best.n);
  }

  private key(event: KeyboardEvent): void {
    if (event.key === "Enter" && this.mark >= 0) this.pick();
    else if (event.key === "Escape") this.show(-1, -1);
    else if (event.key === "Home") this.show(0, 0);
    else if (event.key === "End")
      this.show(this.zones.length - 1, (this.zones.at(-1)?.count ?? 0) - 1);
    else if (STEPS[event.key]) this.walk(STEPS[event.key] as Step);
    else return;
    event.preventDefault();
  }

  /** To the next mark of this trace, or to the trace before or after it. */
  private walk(step: Step): void {
    if (this.mark < 0) return this.show(0, 0);
    const next = this.zones[this.zone]?.next(this.mark, step);
    if (next !== null && next !== undefined) return this.show(this.zone, next);
    const zone = this.zone + (step === "right" || step === "down" ? 1 : -1);
    const other = this.zones[zone];
    if (other)
      this.show(
        zone,
        step === "right" || step === "down" ? 0 : Math.min(this.mark, other.count - 1),
      );
  }

  private pick(): void {
    const spot = this.spot();
    if (spot) this.drawing.onPick?.(spot);
  }

  private spot(): Spot | null {
    return this.mark < 0 ? null : (this.zones[this.zone]?.spot(this.mark) ?? null);
  }

  private show(zone: number, mark: number): void {
    [this.zone, this.mark] = [zone, mark];
    const spot = this.spot();
    this.tip.hidden = !spot;
    this.place.querySelector(".figure-ring")?.remove();
    if (!spot) return;
    this.place.querySelector("svg")?.append(ring(spot));
    this.tip.replaceChildren(...spot.lines.map((line) => dom("div", {}, isolated(line))));
    this.beside(spot);
  }

  /** The tip above its mark, or below it, inside the figure. */
  private beside(spot: Spot): void {
    const { width, height } = this.tip.getBoundingClientRect();
    const middle = spot.x + Math.min(spot.wide, this.box.clientWidth) / 2;
    const left = Math.max(0, Math.min(middle - width / 2, this.box.clientWidth - width));
    const above = spot.y - height - 6;
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${above >= 0 ? above : spot.y + spot.high + 6}px`;
  }
}

function ring({ x, y, wide, high }: Spot): SVGElement {
  const place = { x: x - 1.5, y: y - 1.5, width: wide + 3, height: high + 3 };
  return element(h("rect", { ...place, class: "figure-ring", fill: "none" }));
}

const paint: Paint = (rows, columns, fill) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [columns, rows];
  const context = canvas.getContext("2d");
  if (!context) return null;
  const image = context.createImageData(columns, rows);
  fill(image.data);
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
};
