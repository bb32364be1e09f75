// The tool that a drag uses: it draws a box or a line, which become clicks, or a stroke of the brush.
// The mouse and the keyboard draw in the same way: begin, move, end.

import { clicksOfBox, clicksOfLine, thinned } from "../session/prompts.js";

export const TOOLS = ["click", "box", "line", "brush"];
const BRUSH = { least: 2, most: 200 };

export class Tools {
  #session;
  #stage;
  #colourOf;
  #maxClicks;
  #draft = null;

  /** colourOf(id): [r, g, b]. maxClicks: of one sign on one object. */
  constructor(session, stage, colourOf, maxClicks) {
    this.#session = session;
    this.#stage = stage;
    this.#colourOf = colourOf;
    this.#maxClicks = maxClicks;
    this.tool = "click";
    /** Radius of the brush in CSS pixels. */
    this.size = 14;
  }

  /** Whether a drag draws instead of moving the image. */
  get draws() {
    return this.tool !== "click" && Boolean(this.#session.image);
  }

  get isDrawing() {
    return this.#draft !== null;
  }

  /** The radius of the brush in pixels of the image. */
  get radius() {
    return this.size / this.#stage.view.scale;
  }

  resize(factor) {
    this.size = Math.min(Math.max(this.size * factor, BRUSH.least), BRUSH.most);
  }

  /** Begin to draw at a point in pixels of the image. */
  begin(point, positive) {
    const { active } = this.#session;
    this.#draft = {
      kind: this.tool,
      points: [point],
      positive,
      radius: this.radius,
      colour: this.#colourOf(active.id),
    };
    this.#show();
  }

  move(point) {
    if (!this.#draft) return;
    const { points, kind } = this.#draft;
    this.#draft.points = kind === "box" ? [points[0], point] : [...points, point];
    this.#show();
  }

  cancel() {
    this.#draft = null;
    this.#show();
  }

  /** End drawing: send it as a step. */
  end() {
    const draft = this.#draft;
    this.cancel();
    if (!draft) return;
    const { image } = this.#session;
    const { kind, positive, radius } = draft;
    const points = thinned(draft.points, kind === "brush" ? radius / 4 : 1);
    if (kind === "brush") this.#session.brush(points, radius, positive);
    else if (kind === "box") this.#box(points, image);
    else {
      const free = this.#maxClicks - this.#session.count(positive);
      const inside = points.map((point) => within(point, image));
      this.#session.click(...clicksOfLine(inside, positive, image, free));
    }
  }

  #box(points, image) {
    const [a, b] = [points[0], points.at(-1)].map((point) => within(point, image));
    if (a.x === b.x || a.y === b.y) return;
    this.#session.click(...clicksOfBox({ x0: a.x, y0: a.y, x1: b.x, y1: b.y }, image));
  }

  #show() {
    this.#stage.draft = this.#draft;
    this.#stage.redraw();
  }
}

const within = ({ x, y }, { width, height }) => ({
  x: Math.min(Math.max(x, 0), width - 1),
  y: Math.min(Math.max(y, 0), height - 1),
});
