// Draws what the user is drawing: a box, a line for clicks, a stroke of the brush.

const RIM = "rgb(0 0 0 / 70%)";
const SIGN = { true: "46 204 64", false: "255 65 54" };

/**
 * draft: {kind: "box", "line" or "brush", points: [{x, y}] in pixels of the image, positive, radius
 * in pixels of the image, colour [r, g, b] of the object}. place(point): on the screen.
 */
export function drawDraft(context, draft, place, scale) {
  const points = draft.points.map(place);
  context.save();
  context.lineJoin = context.lineCap = "round";
  if (draft.kind === "brush") {
    trace(context, points);
    context.globalAlpha = 0.55;
    context.lineWidth = Math.max(1.5, 2 * draft.radius * scale);
    context.strokeStyle = draft.positive ? `rgb(${draft.colour})` : "rgb(20 20 20)";
    context.stroke();
  } else {
    if (draft.kind === "box") box(context, points);
    else trace(context, points);
    const colour = draft.kind === "box" ? "white" : `rgb(${SIGN[draft.positive]})`;
    for (const [wide, style] of [[4, RIM], [2, colour]]) {
      context.lineWidth = wide;
      context.strokeStyle = style;
      context.stroke();
    }
  }
  context.restore();
}

/** The circle that the brush would paint or erase. */
export function drawBrush(context, { x, y, radius, positive }) {
  context.beginPath();
  context.arc(x, y, Math.max(radius, 1), 0, 2 * Math.PI);
  for (const [wide, style] of [[3, RIM], [1.4, `rgb(${SIGN[positive]})`]]) {
    context.lineWidth = wide;
    context.strokeStyle = style;
    context.stroke();
  }
}

function trace(context, points) {
  context.beginPath();
  context.moveTo(points[0].x, points[0].y);
  for (const { x, y } of points) context.lineTo(x, y);
}

function box(context, points) {
  const [a, b] = [points[0], points.at(-1)];
  context.beginPath();
  context.rect(Math.min(a.x, b.x), Math.min(a.y, b.y), Math.abs(a.x - b.x), Math.abs(a.y - b.y));
}
