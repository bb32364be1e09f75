// The outline and bounds of a mask, and the patches that clicks attend to. Works on plain arrays.

/**
 * The outline of a mask. bits: width * height values, not 0 = object -> straight segments
 * [x0, y0, x1, y1, ...] in pixels from the top left corner.
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

/** [left, top, right, bottom] of the object, the last two exclusive; null for an empty mask. */
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
 * The patches that the clicks of one sign attend to, from the coverage (0..255) of the previous
 * mask: positive clicks to patches with any object, negative clicks to patches with any background.
 * All patches if there is no previous mask or no patch would remain. 1 = attended.
 * grid: [rows, columns] of patches; the coverage has s x s cells per patch.
 */
export function visiblePatches(coverage, positive, [rows, columns]) {
  const all = new Uint8Array(rows * columns).fill(1);
  if (!coverage) return all;
  const scale = Math.round(Math.sqrt(coverage.length / all.length));
  const seen = new Uint8Array(all.length);
  coverage.forEach((cover, k) => {
    if (positive ? cover === 0 : cover === 255) return;
    const row = Math.floor(k / (columns * scale) / scale);
    const column = Math.floor((k % (columns * scale)) / scale);
    seen[row * columns + column] = 1;
  });
  return seen.some(Boolean) ? seen : all;
}
