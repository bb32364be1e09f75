// A mask's pixels: outline, patches that attention may see. Plain arrays in, plain arrays out.

/**
 * bits: width * height values, not 0 = object -> the edges between object and the rest as
 * [x0, y0, x1, y1, ...] of straight pieces, in pixels from the top left corner.
 */
export function outline(bits, width, height) {
  const pieces = [];
  const box = bounds(bits, width, height);
  if (!box) return pieces;
  const [left, top, right, bottom] = box;
  const at = (x, y) =>
    x >= left && y >= top && x < right && y < bottom && bits[y * width + x] !== 0;
  const run = (begin, end, isEdge, add) => {
    let from = -1;
    for (let k = begin; k <= end; k++) {
      const edge = k < end && isEdge(k);
      if (edge && from < 0) from = k;
      if (!edge && from >= 0) {
        add(from, k);
        from = -1;
      }
    }
  };
  for (let y = top; y <= bottom; y++) {
    run(left, right, (x) => at(x, y - 1) !== at(x, y), (from, to) => pieces.push(from, y, to, y));
  }
  for (let x = left; x <= right; x++) {
    run(top, bottom, (y) => at(x - 1, y) !== at(x, y), (from, to) => pieces.push(x, from, x, to));
  }
  return pieces;
}

/** [left, top, right, bottom] of the object, the last two exclusive; null without one. */
export function bounds(bits, width, height) {
  let [left, right, top, bottom] = [width, 0, height, 0];
  for (let y = 0; y < height; y++) {
    const row = bits.subarray(y * width, (y + 1) * width);
    const first = row.findIndex((bit) => bit !== 0);
    if (first < 0) continue;
    left = Math.min(left, first);
    right = Math.max(right, row.findLastIndex((bit) => bit !== 0) + 1);
    top = Math.min(top, y);
    bottom = y + 1;
  }
  return bottom ? [left, top, right, bottom] : null;
}

/**
 * Which patches the clicks of a sign may look at, from the coverage (0..255) of the mask before:
 * positive clicks at those with any object, negative at those with any background; all of them
 * where there is no mask yet, or where nothing would be left. 1 = may be seen.
 */
export function visiblePatches(coverage, positive, count) {
  const seen = new Uint8Array(count).fill(1);
  if (!coverage) return seen;
  const allowed = (cover) => (positive ? cover > 0 : cover < 255);
  if (!coverage.some(allowed)) return seen;
  return seen.map((_, k) => (allowed(coverage[k]) ? 1 : 0));
}
