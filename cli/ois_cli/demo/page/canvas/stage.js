// The canvas: photograph, layer, masks, clicks, what is being drawn, crosshair. Changes are drawn
// together before the next frame.

import { drawBrush, drawDraft } from "./draft.js";
import { halves } from "./raster.js";
import * as views from "./view.js";

const RIM = "rgb(0 0 0 / 75%)";
const SIGN = { true: "rgb(46 204 64)", false: "rgb(255 65 54)" };
const LAYER_ALPHA = 0.88;
/** Pixels that are at least this large on the screen are drawn as squares. */
const SQUARES = 4;

export class Stage {
  #canvas;
  #context;
  #box = { width: 1, height: 1 };
  #frame = 0;

  constructor(canvas, onView) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.onView = onView;
    /** {bitmap, levels, width, height}: the size is the image's; null before the first image. */
    this.picture = null;
    this.layer = null;
    /** [{canvas, path, width, height, colour}] from readMask; the active object is last. */
    this.masks = [];
    this.preview = null;
    /** [{x, y, positive, colour, active, waiting}] in pixels of the image. */
    this.clicks = [];
    /** Strokes of the brush without an answer, and what is being drawn (null: nothing), as in draft.js. */
    this.drafts = [];
    this.draft = null;
    /** Where the brush is, {x, y} on the canvas, and its radius on the screen; null: no brush. */
    this.brush = null;
    this.crosshair = null;
    this.opacity = 0.45;
    this.view = { scale: 1, x: 0, y: 0 };
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  show(bitmap, width, height) {
    this.picture?.bitmap.close();
    this.picture = { bitmap, levels: [bitmap, ...halves(bitmap)], width, height };
    this.fit();
  }

  fit() {
    if (this.picture) this.#setView(views.fit(this.picture, this.#box));
  }

  zoom(factor, point = { x: this.#box.width / 2, y: this.#box.height / 2 }) {
    if (this.picture) {
      this.#setView(views.zoomAt(this.view, factor, point, this.picture, this.#box));
    }
  }

  pan(dx, dy) {
    if (this.picture) this.#setView(views.panBy(this.view, dx, dy, this.picture, this.#box));
  }

  /** A point of the canvas -> a click in pixels of the image; null outside the image. */
  clickAt(point) {
    return this.picture && views.toClick(this.view, point, this.picture);
  }

  /** A point of the canvas -> pixels of the image, also outside it; for lines that cross its edge. */
  pointAt(point) {
    const { x, y } = views.toImage(this.view, point);
    return { x: x - 0.5, y: y - 0.5 };
  }

  /** Move the crosshair by pixels of the image. It starts in the centre and stays visible. */
  moveCrosshair(dx, dy) {
    const { width, height } = this.picture;
    const from = this.crosshair ?? { x: (width - 1) / 2, y: (height - 1) / 2 };
    const x = views.clamp(Math.round(from.x + dx), 0, width - 1);
    const y = views.clamp(Math.round(from.y + dy), 0, height - 1);
    this.crosshair = { x, y };
    const { x: left, y: top } = this.#place({ x, y });
    const reach = (at, room) => views.clamp(at, 24, room - 24) - at;
    this.pan(reach(left, this.#box.width), reach(top, this.#box.height));
    this.redraw();
  }

  redraw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  #setView(view) {
    this.view = view;
    this.onView(view);
    this.redraw();
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const before = this.#box;
    this.#box = { width, height };
    this.#canvas.width = Math.round(width * devicePixelRatio);
    this.#canvas.height = Math.round(height * devicePixelRatio);
    if (this.picture) this.view = views.resized(this.view, before, this.#box, this.picture);
    this.#draw(); // now, because a resized canvas is blank
  }

  #place({ x, y }) {
    return views.toScreen(this.view, { x: x + 0.5, y: y + 0.5 });
  }

  #draw() {
    const context = this.#context;
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.#box.width, this.#box.height);
    if (!this.picture) return;
    const { bitmap, width, height } = this.picture;
    context.save();
    context.translate(this.view.x, this.view.y);
    context.scale(this.view.scale, this.view.scale);
    this.#image(this.#level(), bitmap.width, this.view.scale * (width / bitmap.width) >= SQUARES, "high");
    if (this.layer) {
      context.globalAlpha = this.layer.sharp ? 1 : LAYER_ALPHA;
      this.#image(this.layer.canvas, this.layer.width, this.layer.sharp);
      context.globalAlpha = 1;
      if (this.layer.sharp) this.#grid(this.layer);
    }
    const fill = this.layer ? 0 : this.opacity; // on a layer, masks are drawn as outlines
    for (const mask of this.masks) this.#mask(mask, fill, []);
    if (this.preview) this.#mask(this.preview, fill * 0.55, [5, 4]);
    context.restore();
    for (const draft of [...this.drafts, this.draft]) {
      if (draft) drawDraft(context, draft, (point) => this.#place(point), this.view.scale);
    }
    for (const click of this.clicks) this.#click(click);
    if (this.brush) drawBrush(context, this.brush);
    if (this.crosshair) this.#cross(this.#place(this.crosshair));
  }

  /**
   * The smallest picture with a pixel for each pixel of the screen. Without a GPU, scaling a large
   * photograph down takes longer than a frame.
   */
  #level() {
    const { bitmap, levels, width } = this.picture;
    const wanted = Math.min(width * this.view.scale * devicePixelRatio, bitmap.width);
    return levels.findLast((level) => level.width >= wanted);
  }

  #image(source, sourceWidth, squares, quality = "low") {
    this.#context.imageSmoothingEnabled = !squares;
    this.#context.imageSmoothingQuality = quality;
    this.#context.drawImage(source, 0, 0, this.picture.width, this.picture.height);
  }

  /** Lines between patches; omitted if they would cover the picture. */
  #grid({ width: columns, height: rows }) {
    const context = this.#context;
    const { width, height } = this.picture;
    if ((width / columns) * this.view.scale < 7) return;
    context.beginPath();
    for (let k = 1; k < columns; k++) {
      context.moveTo((k * width) / columns, 0);
      context.lineTo((k * width) / columns, height);
    }
    for (let k = 1; k < rows; k++) {
      context.moveTo(0, (k * height) / rows);
      context.lineTo(width, (k * height) / rows);
    }
    context.lineWidth = 1 / this.view.scale;
    context.strokeStyle = "rgb(255 255 255 / 22%)";
    context.stroke();
  }

  #mask({ canvas, path, width, height, colour }, alpha, dash) {
    const context = this.#context;
    const x = this.picture.width / width;
    const y = this.picture.height / height;
    context.globalAlpha = alpha;
    this.#image(canvas, width, x * this.view.scale >= SQUARES);
    context.globalAlpha = 1;
    context.save();
    context.scale(x, y);
    const pixel = 1 / (this.view.scale * Math.sqrt(x * y));
    context.lineCap = "round";
    context.setLineDash(dash.map((length) => length * pixel));
    for (const [wide, style] of [[3.4, RIM], [1.8, `rgb(${colour})`]]) {
      context.lineWidth = wide * pixel;
      context.strokeStyle = style;
      context.stroke(path);
    }
    context.restore();
  }

  #click(click) {
    const { x, y } = this.#place(click);
    const context = this.#context;
    const radius = click.active ? 8 : 4;
    const disk = (size, style) => {
      context.beginPath();
      context.arc(x, y, size, 0, 2 * Math.PI);
      context.fillStyle = style;
      context.fill();
    };
    disk(radius + 2.5, RIM);
    disk(radius + 1.5, "white");
    disk(radius, click.active ? SIGN[click.positive] : `rgb(${click.colour})`);
    if (!click.active) return;
    if (click.waiting) disk(radius - 3, "white");
    context.beginPath();
    context.moveTo(x - 4.5, y);
    context.lineTo(x + 4.5, y);
    if (click.positive) {
      context.moveTo(x, y - 4.5);
      context.lineTo(x, y + 4.5);
    }
    context.lineCap = "butt";
    context.lineWidth = 2.4;
    context.strokeStyle = click.waiting ? "black" : "white";
    context.stroke();
  }

  #cross({ x, y }) {
    const context = this.#context;
    const { width, height } = this.#box;
    context.beginPath();
    for (const [x0, y0, x1, y1] of [
      [0, y, x - 7, y], [x + 7, y, width, y], [x, 0, x, y - 7], [x, y + 7, x, height],
    ]) {
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
    }
    for (const [wide, style] of [[3, "rgb(0 0 0 / 60%)"], [1, "white"]]) {
      context.lineWidth = wide;
      context.strokeStyle = style;
      context.stroke();
    }
  }
}
