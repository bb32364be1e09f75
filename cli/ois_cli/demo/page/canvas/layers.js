// Layers over the photograph that show what the network sees: depth, order maps, patches.

import { visiblePatches } from "./mask_geometry.js";
import { colourise, readGrey } from "./raster.js";

/**
 * The layers of the active object: [{id, label, text, low, high, blob | patches}].
 * low, high: meaning of the ends of the colour scale.
 */
export function layersOf(session) {
  const layers = [{ id: "photo", label: "Photograph", text: "" }];
  if (session.depth) layers.push(depthLayer(session.depth));
  const mask = session.active.mask;
  if (!mask) return layers;
  const { positive, negative } = mask.maps;
  (mask.orders ?? []).forEach((blob, k) => {
    const which = positive ? k : k + 1;
    layers.push(orderLayer(blob, which, negative));
  });
  if (positive) layers.push(patchLayer(mask, true));
  if (negative) layers.push(patchLayer(mask, false));
  return layers;
}

const depthLayer = (blob) => ({
  id: "depth",
  label: "Depth",
  text: "Estimated once per image. The network uses only the order: what is in front and what is behind.",
  low: "near",
  high: "far",
  blob,
});

/** which: 0 is the map of all positive clicks, k the map of the k-th negative click. */
function orderLayer(blob, which, negatives) {
  const number = negatives > 1 ? ` ${which}` : "";
  return {
    id: `order${which}`,
    label: which ? `Order M⁻${number}` : "Order M⁺",
    text: which
      ? `Distance in depth from ${negatives > 1 ? `remove click ${which}` : "the remove click"}. The attention of this click decreases with it.`
      : "Distance in depth from the add clicks. Their attention decreases with it, which suppresses regions in front of the object or behind it.",
    low: "at the click’s depth",
    high: "in front or behind",
    blob,
  };
}

function patchLayer(mask, positive) {
  const { before, grid } = mask;
  const seen = visiblePatches(before, positive, grid);
  const count = seen.reduce((sum, one) => sum + one, 0);
  const sign = positive ? "Add" : "Remove";
  const where = positive ? "inside the previous mask" : "outside the previous mask";
  return {
    id: positive ? "patches+" : "patches-",
    label: positive ? "Patches +" : "Patches −",
    text: before
      ? `${sign} clicks attend to ${count} of ${seen.length} patches: those ${where}. Patches on its border belong to both.`
      : `The object’s first click has no previous mask, so it attends to all ${seen.length} patches.`,
    low: "attended",
    high: "masked out",
    patches: { width: grid[1], height: grid[0], values: seen.map((one) => (one ? 255 : 0)) },
  };
}

const BLOCKED = [10, 12, 16, 205];

/**
 * -> {canvas, values, width, height, sharp}. viridis: 256 colours; near and small values are bright,
 * or large ones if the layer is `inverted`.
 */
export async function drawLayer(layer, viridis) {
  if (layer.patches) {
    const canvas = colourise(layer.patches, (value) => (value ? [0, 0, 0, 0] : BLOCKED));
    return { ...layer.patches, canvas, sharp: true };
  }
  const grey = await readGrey(layer.blob);
  const canvas = colourise(grey, (value) => [...viridis[layer.inverted ? value : 255 - value], 255]);
  return { ...grey, canvas, sharp: false };
}

/** Draw the colour scale of a layer, from low to high. */
export function legendCanvas(layer, viridis, canvas) {
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    const [r, g, b] = viridis[255 - Math.round((255 * x) / (canvas.width - 1))];
    const half = x < canvas.width / 2;
    context.fillStyle = layer.patches ? (half ? "#cfd6dd" : "#0a0c10") : `rgb(${r} ${g} ${b})`;
    context.fillRect(x, 0, 1, canvas.height);
  }
}
