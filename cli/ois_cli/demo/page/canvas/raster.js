// Turns PNG files into canvases: masks in colour with their outline, maps in false colour.

import { outline } from "./mask_geometry.js";

/** A grey PNG -> {width, height, values: Uint8Array}. */
export async function readGrey(blob) {
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  const context = newCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const values = new Uint8Array(width * height);
  for (let k = 0; k < values.length; k++) values[k] = data[4 * k];
  return { width, height, values };
}

/** A mask's PNG -> {width, height, values, canvas, path}: the coloured mask and its outline. */
export async function readMask(blob, colour) {
  const mask = await readGrey(blob);
  const { width, height, values } = mask;
  const canvas = colourise(mask, (value) => (value ? [...colour, 255] : [0, 0, 0, 0]));
  const path = new Path2D();
  const pieces = outline(values, width, height);
  for (let k = 0; k < pieces.length; k += 4) {
    path.moveTo(pieces[k], pieces[k + 1]);
    path.lineTo(pieces[k + 2], pieces[k + 3]);
  }
  return { ...mask, canvas, path };
}

/** {width, height, values} -> a canvas; colourOf(0..255) -> [r, g, b, a]. */
export function colourise({ width, height, values }, colourOf) {
  const table = new Uint32Array(256);
  const bytes = new Uint8Array(table.buffer);
  for (let value = 0; value < 256; value++) bytes.set(colourOf(value), 4 * value);
  const canvas = newCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let k = 0; k < values.length; k++) pixels[k] = table[values[k]];
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Half the picture, a quarter, ...: canvases, down to about `SMALLEST` pixels per side. */
export function halves(picture) {
  const { width, height } = picture;
  if (Math.max(width, height) < 2 * SMALLEST) return [];
  const half = newCanvas(Math.ceil(width / 2), Math.ceil(height / 2));
  half.getContext("2d").drawImage(picture, 0, 0, half.width, half.height);
  return [half, ...halves(half)];
}

const SMALLEST = 512;

function newCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}
