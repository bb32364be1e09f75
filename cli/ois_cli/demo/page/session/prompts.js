// Boxes and lines as clicks, the only prompts of the network. All in pixels of the image.

/** As in `ois_client/sam/boxes.py`: distance of negative clicks from the corners. */
const MARGIN = 0.05;
const LEAST_PX = 2;
/** Clicks on a line are at most this share of the image's longest side apart, and no more than: */
const SPACING = 1 / 16;
const MOST_ON_LINE = 6;

/**
 * A box {x0, y0, x1, y1} -> a positive click on its centre and negative ones just outside its
 * corners; corners outside the image are left out. image: {width, height}.
 */
export function clicksOfBox({ x0, y0, x1, y1 }, { width, height }) {
  const [left, right] = [Math.min(x0, x1), Math.max(x0, x1)];
  const [top, bottom] = [Math.min(y0, y1), Math.max(y0, y1)];
  const dx = Math.max(MARGIN * (right - left), LEAST_PX);
  const dy = Math.max(MARGIN * (bottom - top), LEAST_PX);
  const corners = [[left - dx, top - dy], [right + dx, top - dy], [left - dx, bottom + dy], [right + dx, bottom + dy]];
  const inside = corners.filter(([x, y]) => x >= 0 && y >= 0 && x <= width - 1 && y <= height - 1);
  return [
    { x: (left + right) / 2, y: (top + bottom) / 2, positive: true },
    ...inside.map(([x, y]) => ({ x, y, positive: false })),
  ];
}

/**
 * A line [{x, y}, ...] -> clicks of one sign on it, from its start to its end in equal steps.
 * free: how many clicks of this sign the object can still have; at least one click is returned,
 * so that the engines say what is wrong.
 */
export function clicksOfLine(points, positive, { width, height }, free) {
  const along = lengths(points);
  const total = along.at(-1);
  const wanted = Math.ceil(total / (SPACING * Math.max(width, height))) + 1;
  const count = Math.max(1, Math.min(wanted, MOST_ON_LINE, free));
  const places = count === 1 ? [total / 2] : Array.from({ length: count }, (_, k) => (k * total) / (count - 1));
  return places.map((place) => ({ ...pointAt(points, along, place), positive }));
}

/** Leave out points that are closer than `step` to the one before; the last one stays. */
export function thinned(points, step) {
  const kept = [points[0]];
  for (const point of points.slice(1)) {
    if (Math.hypot(point.x - kept.at(-1).x, point.y - kept.at(-1).y) >= step) kept.push(point);
  }
  if (kept.at(-1) !== points.at(-1)) kept.push(points.at(-1));
  return kept;
}

/** The length of the line up to each of its points. */
function lengths(points) {
  let sum = 0;
  return points.map((point, k) => (k ? (sum += Math.hypot(point.x - points[k - 1].x, point.y - points[k - 1].y)) : 0));
}

function pointAt(points, along, place) {
  const next = along.findIndex((length) => length >= place);
  if (next <= 0) return { x: points[0].x, y: points[0].y };
  const step = along[next] - along[next - 1];
  const share = step ? (place - along[next - 1]) / step : 0;
  const [a, b] = [points[next - 1], points[next]];
  return { x: a.x + (b.x - a.x) * share, y: a.y + (b.y - a.y) * share };
}
