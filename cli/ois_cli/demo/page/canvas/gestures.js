// Turns mouse, pen and touch events on the canvas into clicks, drags, zoom, pan and hover.

/** A press that moves less than this, in CSS pixels, is a click. */
const CLICK_RADIUS = { mouse: 5, pen: 8, touch: 12 };
const LONG_PRESS_MS = 500;

/**
 * on: {click(point, remove), zoom(factor, point), pan(dx, dy), hover(point or null)}, and for tools
 * that draw {begin(point, remove), draw(point), end(), cancel()}. remove is true for gestures that
 * remove, otherwise undefined. Points are relative to the canvas.
 * isPanning(): whether the left button pans, because Space is held. draws(): whether a drag draws.
 */
export function listen(canvas, { isPanning, draws }, on) {
  const pointers = new Map();
  let press = null; // the pointer that may become a click
  let drawing = false;

  const pointOf = (event) => {
    const { left, top } = canvas.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  };
  const release = () => {
    clearTimeout(press?.timer);
    press = null;
  };
  const cancelDrawing = () => {
    if (drawing) on.cancel();
    drawing = false;
  };

  canvas.addEventListener("pointerdown", (event) => {
    const point = pointOf(event);
    pointers.set(event.pointerId, point);
    canvas.setPointerCapture(event.pointerId);
    on.hover(null);
    if (pointers.size > 1) {
      release(); // two fingers zoom and pan
      cancelDrawing();
      return;
    }
    const pans = event.button === 1 || (event.button === 0 && isPanning());
    const remove = event.button === 2 || event.altKey || event.ctrlKey ? true : undefined;
    if (event.button === 1) event.preventDefault(); // prevents automatic scrolling
    press = { id: event.pointerId, from: point, remove, pans, radius: CLICK_RADIUS[event.pointerType] ?? 8 };
    if (event.pointerType === "touch") {
      press.timer = setTimeout(() => {
        release();
        navigator.vibrate?.(15);
        on.click(point, true);
      }, LONG_PRESS_MS);
    }
  });

  canvas.addEventListener("pointermove", (event) => {
    const point = pointOf(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType !== "touch") on.hover(point);
      return;
    }
    if (pointers.size > 1) pinch(event.pointerId, before, point);
    else if (drawing) on.draw(point);
    else if (press && !press.pans && draws() && distance(press.from, point) > press.radius) {
      drawing = true;
      on.begin(press.from, press.remove);
      on.draw(point);
      release();
    } else if (!press) on.pan(point.x - before.x, point.y - before.y);
    else if (press.pans || distance(press.from, point) > press.radius) {
      on.pan(point.x - press.from.x, point.y - press.from.y);
      release(); // from now on it pans
    } else return; // distance is measured from the start of the press
    pointers.set(event.pointerId, point);
    canvas.classList.toggle("moving", !drawing);
  });

  function pinch(id, before, point) {
    const [, other] = [...pointers].find(([another]) => another !== id);
    const middle = { x: (point.x + other.x) / 2, y: (point.y + other.y) / 2 };
    on.pan((point.x - before.x) / 2, (point.y - before.y) / 2);
    on.zoom(Math.max(distance(point, other), 1) / Math.max(distance(before, other), 1), middle);
  }

  const end = (event) => {
    pointers.delete(event.pointerId);
    if (!pointers.size) canvas.classList.remove("moving");
  };
  canvas.addEventListener("pointerup", (event) => {
    const done = press?.id === event.pointerId ? press : null;
    end(event);
    release();
    if (drawing) on.end();
    drawing = false;
    if (done && !done.pans) on.click(done.from, done.remove);
  });
  canvas.addEventListener("pointercancel", (event) => {
    end(event);
    release();
    cancelDrawing();
  });
  canvas.addEventListener("pointerleave", () => on.hover(null));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      // A pinch on a trackpad is a wheel event with Ctrl and small steps. A line is about 16 px.
      const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1);
      on.zoom(Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.0016)), pointOf(event));
    },
    { passive: false },
  );
}

const distance = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);
