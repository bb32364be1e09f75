// Mouse, pen and fingers on the canvas -> clicks, zoom, pan, and where the pointer hovers.

/** A press that moves less is a click, in px of the screen; fingers are less steady. */
const STEADY = { mouse: 5, pen: 8, touch: 12 };
const LONG_PRESS_MS = 500;

/**
 * on: {click(point, remove), zoom(factor, point), pan(dx, dy), hover(point or null)}; remove is
 * true where the gesture itself says so, else undefined. Points are relative to the canvas.
 * isPanning(): whether a press of the left button pans (Space is held).
 */
export function listen(canvas, isPanning, on) {
  const pointers = new Map();
  let press = null; // the one pointer that may become a click

  const pointOf = (event) => {
    const { left, top } = canvas.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  };
  const release = () => {
    clearTimeout(press?.timer);
    press = null;
  };

  canvas.addEventListener("pointerdown", (event) => {
    const point = pointOf(event);
    pointers.set(event.pointerId, point);
    canvas.setPointerCapture(event.pointerId);
    on.hover(null);
    if (pointers.size > 1) {
      release(); // two fingers: zoom and pan
      return;
    }
    const pans = event.button === 1 || (event.button === 0 && isPanning());
    const remove = event.button === 2 || event.altKey || event.ctrlKey ? true : undefined;
    if (event.button === 1) event.preventDefault(); // no automatic scrolling
    press = { id: event.pointerId, from: point, remove, pans, steady: STEADY[event.pointerType] ?? 8 };
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
    else if (!press) on.pan(point.x - before.x, point.y - before.y);
    else if (press.pans || far(press.from, point) > press.steady) {
      on.pan(point.x - press.from.x, point.y - press.from.y);
      release(); // it pans from now on
    } else return; // measured from where it was pressed
    pointers.set(event.pointerId, point);
    canvas.classList.add("moving");
  });

  function pinch(id, before, point) {
    const [, other] = [...pointers].find(([another]) => another !== id);
    const middle = { x: (point.x + other.x) / 2, y: (point.y + other.y) / 2 };
    on.pan((point.x - before.x) / 2, (point.y - before.y) / 2);
    on.zoom(Math.max(far(point, other), 1) / Math.max(far(before, other), 1), middle);
  }

  const end = (event) => {
    pointers.delete(event.pointerId);
    if (!pointers.size) canvas.classList.remove("moving");
  };
  canvas.addEventListener("pointerup", (event) => {
    const done = press?.id === event.pointerId ? press : null;
    end(event);
    release();
    if (done && !done.pans) on.click(done.from, done.remove);
  });
  canvas.addEventListener("pointercancel", (event) => {
    end(event);
    release();
  });
  canvas.addEventListener("pointerleave", () => on.hover(null));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      // A trackpad's pinch comes as a wheel with Ctrl, in small steps; lines are about 16 px.
      const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1);
      on.zoom(Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.0016)), pointOf(event));
    },
    { passive: false },
  );
}

const far = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);
