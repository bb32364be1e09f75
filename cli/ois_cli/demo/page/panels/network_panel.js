// The panel "What the network sees": one thumbnail per layer; the chosen layer is on the stage.
// The layers of attention_panel.js are shown below.

import { get, make, refill } from "./dom.js";
import { AttentionPanel } from "./attention_panel.js";
import { drawLayer, layersOf, legendCanvas } from "../canvas/layers.js";

const THUMBNAIL = { width: 184, height: 138 };

export class NetworkPanel {
  #session;
  #stage;
  #viridis;
  #layers = [];
  #chosen = "photo";
  #round = 0;
  #attention;

  /** hasAttention: whether the gateway can compute it. */
  constructor(session, stage, viridis, hasAttention) {
    this.#session = session;
    this.#stage = stage;
    this.#viridis = viridis;
    this.#attention = new AttentionPanel(session, hasAttention, () => this.render());
    const panel = get("inside");
    panel.addEventListener("toggle", () => {
      session.wantsMaps = panel.open;
      if (!panel.open) this.#choose("photo");
      this.loadMaps();
    });
    session.wantsMaps = panel.open;
  }

  /** Load the missing maps if the panel is open. */
  loadMaps() {
    if (get("inside").open) this.#session.loadMaps();
  }

  /** Choose the next (1) or previous (-1) layer. */
  next(step) {
    const count = this.#layers.length;
    const at = this.#layers.findIndex((layer) => layer.id === this.#chosen);
    if (get("inside").open && count) this.#choose(this.#layers[(at + step + count) % count].id);
  }

  async render() {
    const round = ++this.#round;
    this.#attention.render();
    const attention = this.#attention.isOpen ? this.#attention.layers : [];
    const layers = this.#session.image ? [...layersOf(this.#session), ...attention] : [];
    const drawn = await Promise.all(
      layers.map((layer) => (layer.id === "photo" ? null : drawLayer(layer, this.#viridis))),
    );
    if (round !== this.#round) return; // a newer call will render
    this.#layers = layers.map((layer, k) => ({ ...layer, drawn: drawn[k] }));
    const inPanel = (layer) => attention.some(({ id }) => id === layer.id);
    for (const [place, kept] of [["layers", (layer) => !inPanel(layer)], ["attention-maps", inPanel]]) {
      refill(get(place), this.#layers.filter(kept).map((layer) => this.#thumbnail(layer)));
    }
    this.#show();
  }

  #thumbnail(layer) {
    const input = make("input", { type: "radio", name: "layer", checked: layer.id === this.#chosen });
    input.dataset.key = layer.id;
    input.onchange = () => this.#choose(layer.id);
    const canvas = make("canvas", THUMBNAIL);
    const { bitmap, width, height } = this.#stage.picture;
    const scale = Math.min(canvas.width / width, canvas.height / height);
    const size = [width * scale, height * scale];
    const place = [(canvas.width - size[0]) / 2, (canvas.height - size[1]) / 2];
    const context = canvas.getContext("2d");
    context.drawImage(bitmap, ...place, ...size);
    if (layer.drawn) {
      context.imageSmoothingEnabled = !layer.drawn.sharp;
      context.drawImage(layer.drawn.canvas, ...place, ...size);
    }
    return make("label", {}, input, make("span", {}, canvas, layer.label));
  }

  #choose(id) {
    this.#chosen = id;
    for (const input of get("inside").querySelectorAll("input")) {
      input.checked = input.dataset.key === id;
    }
    this.#show();
  }

  #show() {
    const layer = this.#layers.find(({ id }) => id === this.#chosen) ?? this.#layers[0];
    const explained = layer && layer.id !== "photo";
    this.#stage.layer = explained ? layer.drawn : null;
    this.#stage.redraw();
    get("layer-text").textContent = explained ? layer.text : this.#hint();
    get("legend").hidden = !explained;
    if (!explained) return;
    get("legend-low").textContent = layer.low;
    get("legend-high").textContent = layer.high;
    legendCanvas(layer, this.#viridis, get("legend-bar"));
  }

  #hint() {
    if (!this.#session.image) return "Open an image and click on it. Then depth, order maps and attention are shown here.";
    return this.#session.active.mask
      ? "Choose a picture to enlarge it, or press V."
      : "Click on an object to see its order map here.";
  }
}
