// The position of the image on the screen: screen = image * scale + (x, y). Immutable.
//
// Here, the left edge of the image is 0 and the right edge is its width. In clicks, 0 is the centre
// of the first pixel, which is half a pixel less: see `toClick`.

const MARGIN = 16;
/** Largest scale, in CSS pixels per pixel of the image. */
const LARGEST = 32;

/** The whole image in the middle of the box. image, box: {width, height}. */
export function fit(image, box) {
  const scale = Math.min(
    Math.max(1, box.width - 2 * MARGIN) / image.width,
    Math.max(1, box.height - 2 * MARGIN) / image.height,
  );
  return {
    scale,
    x: (box.width - image.width * scale) / 2,
    y: (box.height - image.height * scale) / 2,
  };
}

/** Zoom around a point of the screen, which stays over the same pixel. */
export function zoomAt(view, factor, point, image, box) {
  const whole = fit(image, box).scale;
  const scale = clamp(view.scale * factor, Math.min(whole, 1) / 2, Math.max(whole, LARGEST));
  const real = scale / view.scale;
  return keepInside(
    { scale, x: point.x - (point.x - view.x) * real, y: point.y - (point.y - view.y) * real },
    image,
    box,
  );
}

export const panBy = (view, dx, dy, image, box) =>
  keepInside({ ...view, x: view.x + dx, y: view.y + dy }, image, box);

/** Keep the centre of the view when the box changes its size. */
export function resized(view, before, after, image) {
  const dx = (after.width - before.width) / 2;
  const dy = (after.height - before.height) / 2;
  return panBy(view, dx, dy, image, after);
}

export const toImage = (view, point) => ({
  x: (point.x - view.x) / view.scale,
  y: (point.y - view.y) / view.scale,
});

export const toScreen = (view, point) => ({
  x: point.x * view.scale + view.x,
  y: point.y * view.scale + view.y,
});

/** A point of the screen -> a click in pixels of the image; null outside the image. */
export function toClick(view, point, image) {
  const { x, y } = toImage(view, point);
  if (x < 0 || y < 0 || x > image.width || y > image.height) return null;
  return { x: clamp(x - 0.5, 0, image.width - 1), y: clamp(y - 0.5, 0, image.height - 1) };
}

/** Keep a part of the image inside the box. */
function keepInside(view, image, box) {
  const reach = (offset, side, room) => {
    const seen = Math.min(side, room, 64);
    return clamp(offset, seen - side, room - seen);
  };
  return {
    ...view,
    x: reach(view.x, image.width * view.scale, box.width),
    y: reach(view.y, image.height * view.scale, box.height),
  };
}

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
