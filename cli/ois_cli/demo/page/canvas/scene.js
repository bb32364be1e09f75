// What the stage draws of the session: the masks, the clicks, and strokes without an answer. A
// coarse mask takes the place of its object's mask.

import { readMask } from "./raster.js";

export class Scene {
  #session;
  #stage;
  #colourOf;
  #hidden;
  #decoded = new WeakMap(); // mask -> promise of the result of readMask
  #round = 0;

  /** colourOf(id): [r, g, b]. hidden: a Set of ids of objects that are not drawn. */
  constructor(session, stage, colourOf, hidden) {
    this.#session = session;
    this.#stage = stage;
    this.#colourOf = colourOf;
    this.#hidden = hidden;
  }

  render() {
    this.#clicks();
    this.#masks();
  }

  #clicks() {
    const { doc, waiting } = this.#session;
    const visible = doc.objects.filter(({ id }) => !this.#hidden.has(id));
    const answered = visible.flatMap(({ id, clicks }) =>
      clicks.map((click) => ({ ...click, colour: this.#colourOf(id), active: id === doc.active })));
    const unanswered = waiting.flatMap(({ clicks = [] }) =>
      clicks.map((click) => ({ ...click, active: true, waiting: true })));
    this.#stage.clicks = [...answered.sort((a, b) => a.active - b.active), ...unanswered];
    this.#stage.drafts = waiting.filter(({ stroke }) => stroke).map(({ object, stroke }) => ({
      kind: "brush", points: stroke.points, radius: stroke.radius, positive: stroke.paint, colour: this.#colourOf(object),
    }));
    this.#stage.redraw();
  }

  async #masks() {
    const round = ++this.#round;
    const { doc, coarse } = this.#session;
    const shown = doc.objects
      .map(({ id, mask }) => ({ id, mask: coarse?.object === id ? coarse : mask }))
      .filter(({ id, mask }) => mask && !this.#hidden.has(id));
    shown.sort((a, b) => (a.id === doc.active) - (b.id === doc.active));
    const masks = await Promise.all(shown.map(async ({ id, mask }) => {
      const colour = this.#colourOf(id);
      if (!this.#decoded.has(mask)) this.#decoded.set(mask, readMask(mask.shown, colour));
      return { ...(await this.#decoded.get(mask)), colour };
    }));
    if (round !== this.#round) return; // a newer call will draw
    this.#stage.masks = masks;
    this.#stage.redraw();
  }
}
