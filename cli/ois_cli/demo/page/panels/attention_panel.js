// The panel "Attention of the last click": the weights of the network's attention, per block. They
// are requested when the panel is open, because they take seconds (see gateway/attention.py).

import * as api from "../session/api.js";
import { get } from "./dom.js";
import { Latest } from "../session/latest.js";

const PATIENCE_MS = 60_000;
const TEXT =
  "One row per block. Without M: order-aware attention if there were no order map. With M: as it is. Object: object-aware attention, which is limited to the patches above. Bright patches weigh most; means over the heads.";

export class AttentionPanel {
  #session;
  #requests;
  /** The layers of the last answer, as in layers.js, and the mask that they belong to. */
  layers = [];
  #of = null;

  /** available: whether the gateway has a network. onChange(): called when there are new layers. */
  constructor(session, available, onChange) {
    this.#session = session;
    const panel = get("attention");
    panel.hidden = !available;
    this.#requests = new Latest(async (mask, signal) => {
      try {
        const answer = await api.attention(session.active.clicks, session.image.file, mask.before, signal);
        if (session.active.mask !== mask) return;
        this.#of = mask;
        this.layers = layersOf(answer);
        this.#say(TEXT);
        onChange();
      } catch (error) {
        if (error.name !== "AbortError") this.#say(error.message);
      }
    }, PATIENCE_MS);
    panel.addEventListener("toggle", () => this.render());
  }

  /** Whether there is something to explain, and request it if it is not there. */
  render() {
    const { image, active } = this.#session;
    const panel = get("attention");
    if (panel.hidden || !panel.open) return;
    const mask = image && active.clicks.length ? active.mask : null;
    if (!mask) {
      this.layers = [];
      this.#of = null;
      this.#say("Click on an object first.");
    } else if (mask !== this.#of) {
      this.#say(this.layers.length ? "Computing the attention of this click…" : "Computing. The first time, the network is loaded, which takes a few seconds…");
      this.#requests.request(mask);
    }
  }

  get isOpen() {
    return !get("attention").hidden && get("attention").open;
  }

  #say(text) {
    get("attention-text").textContent = text;
  }
}

const KINDS = [
  ["before", "without M", "Order-aware attention of block NUMBER, computed without the order map."],
  ["after", "with M", "Order-aware attention of block NUMBER: with the order map, it stays at the click’s depth."],
  ["object", "object", "Object-aware attention of block NUMBER, to patches that the previous mask allows."],
];

function layersOf({ head, parts }) {
  const layers = [];
  for (let block = 0; block < head.sigmas.length; block++) {
    for (const [kind, label, text] of KINDS) {
      const found = parts[`${kind}${block}`];
      if (!found) continue;
      layers.push({
        id: `attention-${kind}${block}`,
        label: `${block + 1}: ${label}`,
        text: text.replace("NUMBER", block + 1),
        low: "large weight",
        high: "small",
        inverted: true,
        blob: new Blob([found], { type: "image/png" }),
      });
    }
  }
  return layers;
}
