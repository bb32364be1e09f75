// One image and all clicks on it. Only the page keeps this state: every request contains all that
// is needed, so the gateway and the server keep no state but a cache.
//
// Events: "image" (another image), "change" (objects, masks, waiting clicks), "answer" (detail:
// {object, mask}, after a click), "trouble".

import * as documents from "./document.js";
import { ApiError } from "./api.js";
import { parts } from "./timing.js";

/** Pauses before a request is repeated, in ms; the last one repeats. */
const PAUSES = [500, 1000, 2000, 4000];
/** How many times a click may send its image again. */
const RESENDS = 3;

export class Session extends EventTarget {
  #api;
  #pause;
  #wake = () => {};
  #answering = false;
  #loadingMaps = false;
  #abort = new AbortController();

  /** api: click and openImage of api.js. pause(ms): a promise. */
  constructor(api, pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))) {
    super();
    this.#api = api;
    this.#pause = pause;
    /** {file, name, shown, digest, width, height, model, encode}, null before the first image. */
    this.image = null;
    this.history = documents.begin(documents.empty());
    /** Clicks without a result: {object, x, y, positive}. The first is being answered. */
    this.waiting = [];
    /** The current error, {code, message, temporary}; null if there is none. */
    this.trouble = null;
    /** The image's depth as grey PNG, near 0 and far 1; null until it is loaded. */
    this.depth = null;
    /** Whether clicks also request depth and order maps. */
    this.wantsMaps = false;
    /** Times of the clicks on this image: see `parts`, and their sum as `total`. */
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
   * Open an image file; the previous image stays until then. ready(blob): makes `image.shown`
   * from the picture. kept: an earlier `snapshot` of the same file. Returns the gateway's notes
   * on the image.
   */
  async open(file, name, { onSent, signal, ready = async (blob) => blob, kept } = {}) {
    const { head, parts: found } = await this.#withRetries(
      () => this.#api.openImage(file, { onSent, signal }),
      signal,
    );
    const shown = await ready(new Blob([found.picture], { type: head.media_type }));
    if (signal?.aborted) throw cancelled();
    const { digest, width, height, model_sha256: model } = head;
    const encode = { cached: head.cached, stages: head.timings_ms };
    this.#discard(this.waiting); // clicks on the previous image
    this.image = { file, name, shown, digest, width, height, model, encode };
    this.history = kept?.history ?? documents.begin(documents.empty());
    this.waiting = kept?.waiting ?? [];
    this.depth = null;
    this.times = kept?.times ?? [];
    this.#emit("image");
    this.#emit("change");
    this.#answerAll();
    return head.notes;
  }

  /** The state to restore with `open` after a reload. */
  snapshot() {
    return { history: this.history, waiting: this.waiting, times: this.times };
  }

  // -- clicks ------------------------------------------------------------------------------

  click(x, y, positive) {
    this.waiting = [...this.waiting, { object: this.doc.active, x, y, positive }];
    this.#emit("change");
    return this.#answerAll();
  }

  /** The mask that a click would give, as PNG. Changes nothing. */
  async preview(x, y, positive, signal) {
    const { clicks, mask } = this.active;
    const head = this.#requestHead([...clicks, { x, y, positive }], []);
    const { parts: found } = await this.#api.click(head, mask?.coverage ?? null, signal);
    return png(found.shown);
  }

  /** Load the depth and the active object's order maps, if they are missing. */
  async loadMaps() {
    const { image, active } = this;
    if (!image || this.#loadingMaps || this.waiting.length) return;
    const mask = active.mask;
    if (this.depth && (!mask || mask.orders)) return;
    // Depth belongs to the image, but only a click returns it; any click will do.
    const any = [{ x: (image.width - 1) / 2, y: (image.height - 1) / 2, positive: true }];
    const clicks = mask ? active.clicks : any;
    this.#loadingMaps = true;
    try {
      const { parts: found } = await this.#request(clicks, mask?.before ?? null, ["depth", "order"]);
      if (this.image !== image) return;
      this.depth = png(found.depth);
      if (mask) mask.orders = ordersOf(found);
    } catch {
      return; // not shown: the user did not click, and the next click reports the error
    } finally {
      this.#loadingMaps = false;
    }
    this.#emit("change");
  }

  undo() {
    const last = this.waiting.at(-1);
    if (last) this.#discard([last]);
    else this.history = documents.undo(this.history);
    this.#emit("change");
  }

  redo() {
    if (!this.waiting.length) this.history = documents.redo(this.history);
    this.#emit("change");
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
    this.#emit("change");
  }

  remove(id) {
    this.#discard(this.waiting.filter((click) => click.object === id));
    this.history = documents.push(this.history, documents.without(this.doc, id));
    this.#emit("change");
  }

  select(id) {
    this.history = documents.replace(this.history, documents.withActive(this.doc, id));
    this.#emit("change");
  }

  rename(id, name) {
    this.history = documents.push(this.history, documents.withChanged(this.doc, id, { name }));
    this.#emit("change");
  }

  // -- errors ------------------------------------------------------------------------------

  /** Repeat the request now instead of after the pause. */
  retry() {
    this.#wake();
  }

  /** Discard the waiting clicks and the error. */
  drop() {
    this.#discard(this.waiting);
    this.#setTrouble(null);
    this.#emit("change");
  }

  // -- private -----------------------------------------------------------------------------

  #discard(clicks) {
    if (clicks.includes(this.waiting[0])) this.#abort.abort();
    this.waiting = this.waiting.filter((click) => !clicks.includes(click));
    this.#wake();
  }

  async #answerAll() {
    if (this.#answering) return;
    this.#answering = true;
    while (this.waiting.length) await this.#answer(this.waiting[0]);
    this.#answering = false;
  }

  async #answer(click) {
    const { object: id, ...point } = click;
    const object = documents.find(this.doc, id);
    const clicks = [...object.clicks, point];
    const before = object.mask?.coverage ?? null;
    const want = this.wantsMaps ? ["mask", "order"] : ["mask"];
    if (this.wantsMaps && !this.depth) want.push("depth");
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    try {
      const answer = await this.#withRetries(() => this.#request(clicks, before, want, signal), signal);
      if (signal.aborted) return;
      const mask = maskOf(answer, before);
      if (answer.parts.depth) this.depth = png(answer.parts.depth);
      this.times = [...this.times, mask.time];
      this.waiting = this.waiting.slice(1);
      const doc = documents.withChanged(this.doc, id, { clicks, mask });
      this.history = documents.push(this.history, doc);
      this.#emit("answer", { object: documents.find(doc, id), mask });
    } catch (error) {
      if (signal.aborted) return; // the click was undone
      this.waiting = this.waiting.slice(1);
      this.#setTrouble({ code: error.code, message: error.message, temporary: false });
    }
    this.#emit("change");
  }

  /** Request the mask of clicks; sends the image again if the server has dropped it. */
  async #request(clicks, coverage, want, signal) {
    for (let resends = 0; ; resends++) {
      const began = performance.now();
      try {
        const answer = await this.#api.click(this.#requestHead(clicks, want), coverage, signal);
        return { ...answer, roundTrip: performance.now() - began };
      } catch (error) {
        if (error.code !== "UNKNOWN_IMAGE" || resends === RESENDS) throw error;
      }
      const { head } = await this.#api.openImage(this.image.file, { picture: false, signal });
      if (head.model_sha256 !== this.image.model) {
        throw new ApiError(
          "INCOMPATIBLE_SERVER",
          "The server was restarted with another model; your masks are kept. Open the image again to continue clicking",
        );
      }
    }
  }

  #requestHead(clicks, want) {
    const { digest, width, height, model } = this.image;
    const listed = clicks.map(({ x, y, positive }) => [x, y, positive]);
    return { digest, width, height, model, clicks: listed, want };
  }

  /** Run `task`, and repeat it after a pause while its error is temporary. */
  async #withRetries(task, signal) {
    for (let tries = 0; ; tries++) {
      try {
        const result = await task();
        this.#setTrouble(null);
        return result;
      } catch (error) {
        if (!error.temporary || signal?.aborted) throw error;
        this.#setTrouble({ code: error.code, message: error.message, temporary: true });
      }
      const pause = this.#pause(PAUSES[Math.min(tries, PAUSES.length - 1)]);
      await Promise.race([pause, new Promise((resolve) => (this.#wake = resolve))]);
      if (signal?.aborted) throw cancelled();
    }
  }

  #setTrouble(trouble) {
    if (!trouble && !this.trouble) return;
    this.trouble = trouble;
    this.#emit("trouble");
  }

  #emit(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}

const cancelled = () => new DOMException("cancelled", "AbortError");

const png = (bytes) => new Blob([bytes], { type: "image/png" });

function ordersOf(found) {
  const orders = [];
  while (found[`order${orders.length}`]) orders.push(png(found[`order${orders.length}`]));
  return orders;
}

/**
 * The result of a click that the page keeps. shown, full: the mask as PNG, small enough to draw and
 * at the size of the image. coverage: for the next click. before: the coverage that was sent with
 * this click. orders: order maps; null if they were not requested.
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
