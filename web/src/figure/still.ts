import type { Shape } from "../svg";
import type { Figure } from "./data";
import { scene } from "./scene";
import { measured } from "./text";

const WIDTH = 900;
const HEIGHT = 400;

/** A figure that is drawn nowhere on the page, to be saved. */
export function shapeOf(figure: Figure): Shape {
  const measure = measured("system-ui, sans-serif");
  return scene(figure, {
    width: WIDTH,
    height: figure.layout.height ?? HEIGHT,
    measure,
    paint: () => null,
  }).shape;
}
