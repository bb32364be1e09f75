// One image and all clicks on it. Only the page keeps this state: every request contains all that
// is needed, so the gateway and the server keep no state but a cache.
//
// What the user does to a mask is a step: {object, clicks: [{x, y, positive}]}, usually one click,
// or {object, stroke: {points: [{x, y}], radius, paint}}. Steps are answered one after another.
//
// Events: "image" (another image), "change" (objects, masks, waiting steps), "coarse" (a coarse mask
// to show, or none any more), "answer" (detail: {object, mask}, after a step), "trouble".

import * as documents from "./document.js";
import { ApiError } from "./api.js";
import { parts } from "./timing.js";

/** Pauses before a request is repeated, in ms; the last one repeats. */
const PAUSES = [500, 1000, 2000, 4000];
/** How many times a click may send its image again. */
const RESENDS = 3;
/** A coarse mask is requested, in ms, after the full one was, if that is not there by then. */
const COARSE_AFTER = 50;
/** A coarse mask waits this long, in ms: if the full one comes so soon, the change would flicker. */
const HOLD = 10;

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
    /** Steps without a result. The first is being answered. */
    this.waiting = [];
    /** The current error, {code, message, temporary}; null if there is none. */
    this.trouble = null;
    /** The image's depth as grey PNG, near 0 and far 1; null until it is loaded. */
    this.depth = null;
    /** Whether clicks also request depth and order maps. */
    this.wantsMaps = false;
    /** Whether clicks also request a coarse mask, to show until the full one is there. */
    this.progressive = false;
    /** From which click on an object its answer may be about a window around it; 0: never. */
    this.zoomFrom = 0;
    /** The coarse mask of the click that is being answered, {object, shown}; null if there is none. */
    this.coarse = null;
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
   * from the picture. opened(): called when the image has changed, before the events. kept: an
   * earlier `snapshot` of the same file. Returns the gateway's notes on the image.
   */
  async open(file, name, { onSent, signal, ready = async (blob) => blob, opened = () => {}, kept } = {}) {
    const { head, parts: found } = await this.#withRetries(
      () => this.#api.openImage(file, { onSent, signal }),
      signal,
    );
    const shown = await ready(new Blob([found.picture], { type: head.media_type }));
    if (signal?.aborted) throw cancelled();
    const { digest, width, height, model_sha256: model } = head;
    const encode = { cached: head.cached, stages: head.timings_ms };
    this.#discard(this.waiting); // steps on the previous image
    this.image = { file, name, shown, digest, width, height, model, encode };
    this.history = kept?.history ?? documents.begin(documents.empty());
    this.waiting = kept?.waiting ?? [];
    this.depth = null;
    this.times = kept?.times ?? [];
    opened();
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

  /** One click, or several that are answered together: a box, a line. */
  click(...clicks) {
    return this.#add({ clicks });
  }

  /** A stroke of the brush: points in pixels of the image. It paints or erases. */
  brush(points, radius, paint) {
    return this.#add({ stroke: { points, radius, paint } });
  }

  #add(step) {
    this.waiting = [...this.waiting, { object: this.doc.active, ...step }];
    this.#emit("change");
    return this.#answerAll();
  }

  /** How many clicks of a sign the active object has, with those that wait. */
  count(positive) {
    const waiting = this.waiting.filter(({ object }) => object === this.doc.active);
    const all = [...this.active.clicks, ...waiting.flatMap(({ clicks }) => clicks ?? [])];
    return all.filter((click) => click.positive === positive).length;
  }

  /** Add the masks of a file as objects. Throws an ApiError. Returns how many. */
  async loadMasks(file) {
    const { image } = this;
    const { head, parts: found } = await this.#api.masksOf(file, image);
    if (this.image !== image) return 0;
    const objects = head.objects.map(({ name, label, ...facts }, k) => {
      const own = { shown: found[`shown${k}`], mask: found[`mask${k}`], coverage: found[`coverage${k}`] };
      return { name, label, mask: editedMask({ head: facts, parts: own }, null, image.model) };
    });
    this.history = documents.push(this.history, documents.withMasks(this.doc, objects));
    this.#emit("change");
    return objects.length;
  }

  /** The mask that a click would give, as PNG. Changes nothing. */
  async preview(x, y, positive, signal) {
    const { clicks, mask } = this.active;
    if (mask && mask.model !== this.image.model) throw new Error("the coverage is another model's");
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
    const clicks = mask && active.clicks.length ? active.clicks : any;
    this.#loadingMaps = true;
    try {
      const { parts: found } = await this.#request(clicks, mask?.before ?? null, ["depth", "order"]);
      if (this.image !== image) return;
      this.depth = png(found.depth);
      if (mask) mask.orders = active.clicks.length ? ordersOf(found) : [];
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
    this.#discard(this.waiting.filter((step) => step.object === id));
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

  /** Set the class of an object; "" for none. */
  setLabel(id, label) {
    this.history = documents.push(this.history, documents.withChanged(this.doc, id, { label }));
    this.#emit("change");
  }

  // -- errors ------------------------------------------------------------------------------

  /** Repeat the request now instead of after the pause. */
  retry() {
    this.#wake();
  }

  /** Discard the waiting steps and the error. */
  drop() {
    this.#discard(this.waiting);
    this.#setTrouble(null);
    this.#emit("change");
  }

  // -- private -----------------------------------------------------------------------------

  #discard(steps) {
    if (steps.includes(this.waiting[0])) {
      this.#abort.abort();
      this.coarse = null;
    }
    this.waiting = this.waiting.filter((step) => !steps.includes(step));
    this.#wake();
  }

  async #answerAll() {
    if (this.#answering) return;
    this.#answering = true;
    while (this.waiting.length) await this.#answer(this.waiting[0]);
    this.#answering = false;
  }

  async #answer(step) {
    const object = documents.find(this.doc, step.object);
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    try {
      const task = step.stroke ? this.#edit : this.#click;
      const changed = await this.#withRetries(() => task.call(this, object, step, signal), signal);
      if (signal.aborted) return;
      this.waiting = this.waiting.slice(1);
      const doc = documents.withChanged(this.doc, object.id, changed);
      this.history = documents.push(this.history, doc);
      this.#emit("answer", { object: documents.find(doc, object.id), mask: changed.mask, step });
    } catch (error) {
      if (signal.aborted) return; // the step was undone
      this.waiting = this.waiting.slice(1);
      this.#setTrouble({ code: error.code, message: error.message, temporary: false });
    }
    this.#emit("change");
  }

  /** Answer clicks -> the changed fields of the object. */
  async #click(object, step, signal) {
    const clicks = [...object.clicks, ...step.clicks];
    const before = await this.#coverage(object.mask, signal);
    const want = this.wantsMaps ? ["mask", "order"] : ["mask"];
    if (this.wantsMaps && !this.depth) want.push("depth");
    const endCoarse = this.progressive ? this.#showCoarse(object.id, clicks, before) : () => {};
    let answer;
    try {
      const zooms = this.zoomFrom && clicks.length >= this.zoomFrom;
      answer = await this.#request(clicks, before, want, signal, zooms ? object.mask : null);
    } catch (error) {
      endCoarse();
      this.#emit("coarse");
      throw error;
    }
    endCoarse(); // without an event: the full mask takes its place with the next "change"
    if (signal.aborted) return null;
    const mask = maskOf(answer, before, this.image.model);
    if (answer.parts.depth) this.depth = png(answer.parts.depth);
    this.times = [...this.times, mask.time];
    return { clicks, mask };
  }

  /**
   * Request the coarse mask of clicks if the full one takes long, and show it, until the returned
   * function is called. An error is ignored: the request for the full mask reports its own.
   */
  #showCoarse(object, clicks, coverage) {
    const abort = new AbortController();
    const head = { ...this.#requestHead(clicks, []), answer: "coarse" };
    const show = async () => {
      await this.#pause(COARSE_AFTER);
      abort.signal.throwIfAborted();
      const { parts: found } = await this.#api.click(head, coverage, abort.signal);
      await this.#pause(HOLD);
      if (abort.signal.aborted) return;
      this.coarse = { object, shown: png(found.shown) };
      this.#emit("coarse");
    };
    show().catch(() => {});
    return () => {
      abort.abort();
      this.coarse = null;
    };
  }

  /** Answer a stroke of the brush -> the changed fields of the object. */
  async #edit(object, { stroke }, signal) {
    const points = stroke.points.map(({ x, y }) => [x, y]);
    const { radius, paint } = stroke;
    const { width, height } = this.image;
    const answer = await this.#api.edit({ width, height, points, radius, paint }, object.mask?.full, signal);
    return { mask: editedMask(answer, object.mask, this.image.model) };
  }

  /**
   * The coverage of a mask for this image's model. Networks may have other grids, so a mask that
   * another model made gets a new coverage.
   */
  async #coverage(mask, signal) {
    if (!mask || mask.model === this.image.model) return mask?.coverage ?? null;
    const { width, height } = this.image;
    const { parts: found } = await this.#api.edit({ width, height, points: [] }, mask.full, signal);
    return found.coverage.slice();
  }

  /**
   * Request the mask of clicks; sends the image again if the server has dropped it. mask: the one
   * before, if the answer may be about a window around it.
   */
  async #request(clicks, coverage, want, signal, mask = null) {
    for (let resends = 0; ; resends++) {
      const began = performance.now();
      try {
        const head = { ...this.#requestHead(clicks, want), window: mask?.window ?? null };
        const answer = await this.#api.click(head, coverage, signal, mask?.full);
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
 * at the size of the image. coverage: for the next click; model: which made it. before: the coverage
 * that was sent with this click. window: [left, top, right, bottom] in which the click was
 * answered; null for the whole image. orders: order maps; null if they were not requested. time: null if
 * it was not a click.
 */
function maskOf({ head, parts: found, roundTrip }, before, model) {
  const time = parts(roundTrip, head.gateway_ms, head.timings_ms);
  return {
    ...pixelsOf(head, found, model),
    before,
    window: head.window,
    maps: head.maps,
    orders: found.order0 ? ordersOf(found) : null,
    time: { ...time, total: roundTrip, window: Boolean(head.window) },
  };
}

const NO_MAPS = { positive: false, negative: 0 };

/** A mask after a stroke, or from a file. previous: the mask before; what it says of clicks stays. */
function editedMask({ head, parts: found }, previous, model) {
  const { before = null, window = null, maps = NO_MAPS, orders = [] } = previous ?? {};
  return { ...pixelsOf(head, found, model), before, window, maps, orders, time: null };
}

const pixelsOf = (head, found, model) => ({
  shown: png(found.shown),
  full: png(found.mask),
  coverage: found.coverage.slice(),
  grid: head.grid,
  area: head.area_px,
  model,
});
