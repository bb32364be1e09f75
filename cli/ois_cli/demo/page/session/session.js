// One image and all that was clicked on it. The page is the only one who keeps it: a question
// carries everything, so neither the gateway nor the server need remember anything but a cache.
//
// Events: "image" (another image), "change" (objects, masks, waiting clicks), "answer" (detail:
// {object, mask}, after a click), "trouble".

import * as documents from "./document.js";
import { ApiError } from "./api.js";
import { parts } from "./timing.js";

/** Pauses before a question is asked again, in ms; the last one repeats. */
const PAUSES = [500, 1000, 2000, 4000];
/** How often one click sends its image again. */
const RESENDS = 3;

export class Session extends EventTarget {
  #api;
  #pause;
  #wake = () => {};
  #pumping = false;
  #looking = false;
  #abort = new AbortController();

  /** api: click and openImage of api.js. pause(ms): a promise. */
  constructor(api, pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))) {
    super();
    this.#api = api;
    this.#pause = pause;
    /** {file, name, shown, digest, width, height, model, encode}, null before the first image. */
    this.image = null;
    this.history = documents.begin(documents.empty());
    /** Clicks not answered yet: {object, x, y, positive}. The first is under way. */
    this.waiting = [];
    /** {code, message, passing}: what is wrong now; null while all is well. */
    this.trouble = null;
    /** The image's depth as grey PNG, near 0 and far 1; null until somebody looks. */
    this.depth = null;
    /** Whether clicks also ask what the network sees. */
    this.curious = false;
    /** Times of the clicks on this image, see `parts`, with their sum `total`. */
    this.times = [];
  }

  get doc() {
    return this.history.now;
  }

  get active() {
    return documents.activeObject(this.doc);
  }

  // -- the image ---------------------------------------------------------------------------

  /**
   * Open an image file; what was there before stays until it is open. ready(blob): makes of the
   * picture to show what `image.shown` is to be. kept: what `snapshot` gave for the same file.
   * Returns the gateway's notes on the image.
   */
  async open(file, name, { onSent, signal, ready = async (blob) => blob, kept } = {}) {
    const { head, parts: found } = await this.#patiently(
      () => this.#api.openImage(file, { onSent, signal }),
      signal,
    );
    const shown = await ready(new Blob([found.picture], { type: head.media_type }));
    if (signal?.aborted) throw givenUp();
    const { digest, width, height, model_sha256: model } = head;
    const encode = { cached: head.cached, stages: head.timings_ms };
    this.#forget(this.waiting); // clicks on the image before
    this.image = { file, name, shown, digest, width, height, model, encode };
    this.history = kept?.history ?? documents.begin(documents.empty());
    this.waiting = kept?.waiting ?? [];
    this.depth = null;
    this.times = kept?.times ?? [];
    this.#tell("image");
    this.#tell("change");
    this.#pump();
    return head.notes;
  }

  /** All that a reload must not lose, for `open`. */
  snapshot() {
    return { history: this.history, waiting: this.waiting, times: this.times };
  }

  // -- clicks ------------------------------------------------------------------------------

  click(x, y, positive) {
    this.waiting = [...this.waiting, { object: this.doc.active, x, y, positive }];
    this.#tell("change");
    return this.#pump();
  }

  /** The mask that a click would give, as PNG. Nothing changes. */
  async preview(x, y, positive, signal) {
    const { clicks, mask } = this.active;
    const question = this.#question([...clicks, { x, y, positive }], []);
    const { parts: found } = await this.#api.click(question, mask?.coverage ?? null, signal);
    return png(found.shown);
  }

  /** Fetch depth and order maps of what is there now, where they are not known yet. */
  async look() {
    const { image, active } = this;
    if (!image || this.#looking || this.waiting.length) return;
    const mask = active.mask;
    if (this.depth && (!mask || mask.orders)) return;
    // Depth is the image's, but only a click's answer brings it: any click will do.
    const any = [{ x: (image.width - 1) / 2, y: (image.height - 1) / 2, positive: true }];
    const clicks = mask ? active.clicks : any;
    this.#looking = true;
    try {
      const { parts: found } = await this.#ask(clicks, mask?.before ?? null, ["depth", "order"]);
      if (this.image !== image) return;
      this.depth = png(found.depth);
      if (mask) mask.orders = ordersOf(found);
    } catch {
      return; // nobody clicked: when the next click fails, it says why
    } finally {
      this.#looking = false;
    }
    this.#tell("change");
  }

  undo() {
    const last = this.waiting.at(-1);
    if (last) this.#forget([last]);
    else this.history = documents.undo(this.history);
    this.#tell("change");
  }

  redo() {
    if (!this.waiting.length) this.history = documents.redo(this.history);
    this.#tell("change");
  }

  get canUndo() {
    return this.waiting.length > 0 || this.history.past.length > 0;
  }

  get canRedo() {
    return this.waiting.length === 0 && this.history.future.length > 0;
  }

  // -- objects -----------------------------------------------------------------------------

  newObject() {
    const doc = documents.withNew(this.doc);
    if (doc !== this.doc) this.history = documents.push(this.history, doc);
    this.#tell("change");
  }

  remove(id) {
    this.#forget(this.waiting.filter((click) => click.object === id));
    this.history = documents.push(this.history, documents.without(this.doc, id));
    this.#tell("change");
  }

  select(id) {
    this.history = documents.replace(this.history, documents.withActive(this.doc, id));
    this.#tell("change");
  }

  rename(id, name) {
    this.history = documents.push(this.history, documents.withChanged(this.doc, id, { name }));
    this.#tell("change");
  }

  // -- trouble -----------------------------------------------------------------------------

  /** Do not wait any longer: ask again now. */
  retry() {
    this.#wake();
  }

  /** Give up the clicks that wait, and forget the trouble. */
  drop() {
    this.#forget(this.waiting);
    this.#trouble(null);
    this.#tell("change");
  }

  // -- inside ------------------------------------------------------------------------------

  #forget(clicks) {
    if (clicks.includes(this.waiting[0])) this.#abort.abort();
    this.waiting = this.waiting.filter((click) => !clicks.includes(click));
    this.#wake();
  }

  async #pump() {
    if (this.#pumping) return;
    this.#pumping = true;
    while (this.waiting.length) await this.#answer(this.waiting[0]);
    this.#pumping = false;
  }

  async #answer(click) {
    const { object: id, ...point } = click;
    const object = documents.find(this.doc, id);
    const clicks = [...object.clicks, point];
    const before = object.mask?.coverage ?? null;
    const want = this.curious ? ["mask", "order"] : ["mask"];
    if (this.curious && !this.depth) want.push("depth");
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    try {
      const answer = await this.#patiently(() => this.#ask(clicks, before, want, signal), signal);
      if (signal.aborted) return;
      const mask = maskOf(answer, before);
      if (answer.parts.depth) this.depth = png(answer.parts.depth);
      this.times = [...this.times, mask.time];
      this.waiting = this.waiting.slice(1);
      const doc = documents.withChanged(this.doc, id, { clicks, mask });
      this.history = documents.push(this.history, doc);
      this.#tell("answer", { object: documents.find(doc, id), mask });
    } catch (error) {
      if (signal.aborted) return; // it was taken back while it was under way
      this.waiting = this.waiting.slice(1);
      this.#trouble({ code: error.code, message: error.message, passing: false });
    }
    this.#tell("change");
  }

  /** The answer to clicks; sends the image again when the server has forgotten it. */
  async #ask(clicks, coverage, want, signal) {
    for (let resends = 0; ; resends++) {
      const began = performance.now();
      try {
        const answer = await this.#api.click(this.#question(clicks, want), coverage, signal);
        return { ...answer, roundTrip: performance.now() - began };
      } catch (error) {
        if (error.code !== "UNKNOWN_IMAGE" || resends === RESENDS) throw error;
      }
      const { head } = await this.#api.openImage(this.image.file, { picture: false, signal });
      if (head.model_sha256 !== this.image.model) {
        throw new ApiError(
          "INCOMPATIBLE_SERVER",
          "The server came back with another model; your masks are kept. Open the image again to go on clicking",
        );
      }
    }
  }

  #question(clicks, want) {
    const { digest, width, height, model } = this.image;
    const listed = clicks.map(({ x, y, positive }) => [x, y, positive]);
    return { digest, width, height, model, clicks: listed, want };
  }

  /** `task`, again and again while its trouble is one that may pass. */
  async #patiently(task, signal) {
    for (let tries = 0; ; tries++) {
      try {
        const result = await task();
        this.#trouble(null);
        return result;
      } catch (error) {
        if (!error.passing || signal?.aborted) throw error;
        this.#trouble({ code: error.code, message: error.message, passing: true });
      }
      const pause = this.#pause(PAUSES[Math.min(tries, PAUSES.length - 1)]);
      await Promise.race([pause, new Promise((resolve) => (this.#wake = resolve))]);
      if (signal?.aborted) throw givenUp();
    }
  }

  #trouble(trouble) {
    if (!trouble && !this.trouble) return;
    this.trouble = trouble;
    this.#tell("trouble");
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}

const givenUp = () => new DOMException("given up", "AbortError");

const png = (bytes) => new Blob([bytes], { type: "image/png" });

function ordersOf(found) {
  const orders = [];
  while (found[`order${orders.length}`]) orders.push(png(found[`order${orders.length}`]));
  return orders;
}

/**
 * What the page keeps of an answer. shown, full: PNG of the mask, small enough to draw and at the
 * image's size; coverage: for the next click; before: the one this click went out with; orders:
 * null when they were not asked for.
 */
function maskOf({ head, parts: found, roundTrip }, before) {
  const time = parts(roundTrip, head.gateway_ms, head.timings_ms);
  return {
    shown: png(found.shown),
    full: png(found.mask),
    coverage: found.coverage.slice(),
    before,
    grid: head.grid,
    area: head.area_px,
    maps: head.maps,
    orders: found.order0 ? ordersOf(found) : null,
    time: { ...time, total: roundTrip },
  };
}
