// The mask that a click would give, while the pointer hovers.

import { get } from "../panels/dom.js";
import { Latest } from "../session/latest.js";
import { say } from "../panels/notices.js";
import { readMask } from "./raster.js";

/** A preview that takes longer is given up for a newer one. */
const PATIENCE_MS = 250;
/** Where clicks take longer than this, previews would only be in the way. */
const WORTH_MS = 600;

export class Previews {
  #session;
  #stage;
  #requests;

  /** colourOf(id): [r, g, b]. adds(): what a click does now. */
  constructor(session, stage, colourOf, adds) {
    this.#session = session;
    this.#stage = stage;
    this.#requests = new Latest(async (place, signal) => {
      const shown = await session.preview(place.x, place.y, adds(), signal);
      const colour = colourOf(session.doc.active);
      const mask = await readMask(shown, colour);
      if (!signal.aborted) this.#show({ ...mask, colour });
    }, PATIENCE_MS);
    get("hover").addEventListener("change", () => this.stop());
    session.addEventListener("answer", ({ detail }) => this.#judge(detail.mask.time.total));
  }

  /** place: where a click would go; null or undefined for nowhere. */
  follow(place) {
    const { waiting, trouble } = this.#session;
    if (place && get("hover").checked && !waiting.length && !trouble) this.#requests.want(place);
    else this.stop();
  }

  stop() {
    this.#requests.stop();
    this.#show(null);
  }

  #show(mask) {
    this.#stage.preview = mask;
    this.#stage.redraw();
  }

  #judge(clickMs) {
    if (clickMs < WORTH_MS || this.#session.times.length > 1 || !get("hover").checked) return;
    get("hover").checked = false;
    say("Clicks take long here, so the preview was switched off.");
  }
}
