// Shows the mask that a click at the pointer would give.

import { get } from "../panels/dom.js";
import { Latest } from "../session/latest.js";
import { say } from "../panels/notices.js";
import { readMask } from "./raster.js";

/** A preview that takes longer is cancelled for a newer one. */
const PATIENCE_MS = 250;
/** If clicks take longer than this, previews are switched off. */
const TOO_SLOW_MS = 600;

export class Previews {
  #session;
  #stage;
  #requests;

  /** colourOf(id): [r, g, b]. adds(): whether clicks add. */
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
    session.addEventListener("answer", ({ detail }) => this.#stopIfSlow(detail.mask.time?.total ?? 0));
  }

  /** place: the position that a click would have; null or undefined outside the image. */
  follow(place) {
    const { waiting, trouble } = this.#session;
    if (place && get("hover").checked && !waiting.length && !trouble) this.#requests.request(place);
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

  #stopIfSlow(clickMs) {
    if (clickMs < TOO_SLOW_MS || this.#session.times.length > 1 || !get("hover").checked) return;
    get("hover").checked = false;
    say("The preview was switched off, because clicks are slow here.");
  }
}
