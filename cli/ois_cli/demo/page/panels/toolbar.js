// The controls of the toolbar: tool, what clicks do, size of the brush, opacity, zoom.

import { get } from "./dom.js";
import { say } from "./notices.js";

const HINTS = {
  click: "Click on the object.",
  box: "Drag a box around the object. It becomes a click on its centre and removing clicks at its corners.",
  line: "Draw a line on the object. It becomes clicks along the line.",
  brush: "Paint on the mask. Remove, or the right button, erases.",
};
const FADE = 10;
const GROW = 1.25;

export class Toolbar {
  #tools;
  #stage;
  #pointer = null; // where the mouse is on the canvas

  constructor(tools, stage) {
    this.#tools = tools;
    this.#stage = stage;
    for (const input of document.querySelectorAll("input[name=tool]")) {
      input.onchange = () => this.choose(input.value);
    }
    for (const input of document.querySelectorAll("input[name=sign]")) {
      input.onchange = () => this.showBrush(this.#pointer);
    }
    get("opacity").oninput = () => this.#setOpacity(get("opacity").value);
    get("size").oninput = () => this.#setSize(Number(get("size").value));
  }

  /** Whether clicks, lines and the brush add. */
  get adds() {
    return document.querySelector("input[name=sign]:checked").value === "add";
  }

  choose(tool) {
    this.#tools.tool = tool;
    document.querySelector(`input[name=tool][value=${tool}]`).checked = true;
    get("size-control").hidden = tool !== "brush";
    this.showBrush(this.#pointer);
    say(HINTS[tool]);
  }

  sign(positive) {
    document.querySelector(`input[name=sign][value=${positive ? "add" : "remove"}]`).checked = true;
    this.showBrush(this.#pointer);
    say(positive ? "Clicks, lines and the brush add." : "Clicks, lines and the brush remove.");
  }

  /** More (1) or less (-1): of the brush's size, or of the masks' opacity. */
  step(direction) {
    if (this.#tools.tool === "brush") this.#setSize(this.#tools.size * GROW ** direction);
    else this.#setOpacity(Number(get("opacity").value) + direction * FADE);
  }

  /** Show the zoom after it changed. */
  showView() {
    const text = `${Math.round(this.#stage.view.scale * 100)} %`;
    if (get("zoom").textContent !== text) get("zoom").textContent = text; // not while moving the image
  }

  /** Show the brush at a point of the canvas, if it is the tool; null: the mouse is elsewhere. */
  showBrush(point) {
    this.#pointer = point;
    const shown = point && this.#tools.tool === "brush";
    this.#stage.brush = shown ? { ...point, radius: this.#tools.size, positive: this.adds } : null;
    this.#stage.redraw();
  }

  #setOpacity(percent) {
    get("opacity").value = percent;
    this.#stage.opacity = get("opacity").value / 100;
    this.#stage.redraw();
  }

  #setSize(size) {
    this.#tools.resize(size / this.#tools.size);
    get("size").value = this.#tools.size;
    say(`Brush of ${Math.round(2 * this.#tools.radius)} pixels of the image.`);
    this.showBrush(this.#pointer);
  }
}
