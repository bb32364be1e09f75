// Keyboard shortcuts. Keys that type text or belong to a focused control are ignored.

/**
 * actions: see the tables below. canvas: when it or nothing has the focus, arrows move the
 * crosshair, and Enter and Backspace act there.
 */
export function listen(canvas, actions) {
  const anywhere = {
    c: () => actions.tool("click"),
    b: () => actions.tool("box"),
    l: () => actions.tool("line"),
    p: () => actions.tool("brush"),
    n: actions.newObject,
    ",": () => actions.nextObject(-1),
    ".": () => actions.nextObject(1),
    d: actions.doneAndNext,
    PageUp: () => actions.nextImage(-1),
    PageDown: () => actions.nextImage(1),
    a: () => actions.sign(true),
    r: () => actions.sign(false),
    h: actions.togglePreview,
    v: () => actions.nextLayer(1),
    V: () => actions.nextLayer(-1),
    "+": () => actions.zoom(1.25),
    "=": () => actions.zoom(1.25),
    "-": () => actions.zoom(0.8),
    0: actions.fit,
    "[": () => actions.less(),
    "]": () => actions.more(),
    "?": actions.help,
  };
  const onCanvas = {
    ArrowLeft: (fine) => actions.crosshair(-1, 0, fine),
    ArrowRight: (fine) => actions.crosshair(1, 0, fine),
    ArrowUp: (fine) => actions.crosshair(0, -1, fine),
    ArrowDown: (fine) => actions.crosshair(0, 1, fine),
    Enter: () => actions.atCrosshair(true),
    Backspace: () => actions.atCrosshair(false),
    Delete: () => actions.atCrosshair(false),
    Escape: actions.escape,
  };

  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.target.matches("input:not([type=range], [type=radio], [type=checkbox])")) return;
    const key = event.key;
    const free = event.target === canvas || event.target === document.body;
    if (event.ctrlKey || event.metaKey) {
      const letter = key.toLowerCase();
      if (letter === "z") run(event, event.shiftKey ? actions.redo : actions.undo);
      else if (letter === "y") run(event, actions.redo);
      return;
    }
    if (event.altKey) return;
    if (key === " " && free) run(event, () => actions.hand(true));
    else if (free && onCanvas[key]) run(event, () => onCanvas[key](event.shiftKey));
    else if (/^[1-9]$/.test(key)) run(event, () => actions.classOf(Number(key)));
    else if (anywhere[key]) run(event, anywhere[key]);
  });
  document.addEventListener("keyup", (event) => event.key === " " && actions.hand(false));
  window.addEventListener("blur", () => actions.hand(false));
}

function run(event, action) {
  event.preventDefault();
  action();
}
