// The page's half of ClickWidget (widget.py): draws the session, sends clicks and commands.

const COMMANDS = { u: "undo", r: "redo", n: "new" };

export default {
  render({ model, el }) {
    const root = element("div", { className: "ois-click" });
    // Otherwise JupyterLab takes keys first: R would make the cell raw text.
    root.dataset.lmSuppressShortcuts = "true";
    const bar = root.appendChild(element("div", { className: "bar" }));
    const canvas = root.appendChild(element("canvas", { tabIndex: 0 }));
    canvas.setAttribute("aria-label", "Image: left click adds, right click removes");
    const status = root.appendChild(element("div", { className: "status", role: "status" }));
    status.setAttribute("aria-live", "polite");
    el.replaceChildren(root);

    let sent = model.get("answered");
    let picture = null;
    let overlay = null;
    let drawing = 0;

    const send = (message) => {
      sent = Math.max(sent, model.get("answered")) + 1; // another view may have sent some
      root.classList.add("waiting");
      model.send(message);
    };

    // An older picture that is decoded late must not replace a newer one.
    async function redraw() {
      const turn = (drawing += 1);
      const found = await Promise.all([bitmap(model.get("image")), bitmap(model.get("overlay"))]);
      if (turn !== drawing) return;
      [picture, overlay] = found;
      paint();
    }

    function paint() {
      if (!picture) return;
      canvas.width = picture.width;
      canvas.height = picture.height;
      const context = canvas.getContext("2d");
      context.drawImage(picture, 0, 0);
      if (overlay) context.drawImage(overlay, 0, 0);
      const scale = picture.width / model.get("size")[0];
      const radius = Math.max(4, picture.width / 160);
      for (const { id, clicks } of model.get("objects")) {
        context.globalAlpha = id === model.get("chosen") ? 1 : 0.45;
        for (const [x, y, positive] of clicks) {
          context.beginPath();
          context.arc((x + 0.5) * scale, (y + 0.5) * scale, radius, 0, 2 * Math.PI);
          context.fillStyle = positive ? "#2ecc40" : "#ff4136";
          context.fill();
          context.lineWidth = radius / 3;
          context.strokeStyle = "white";
          context.stroke();
        }
      }
      context.globalAlpha = 1;
    }

    function buttons() {
      const chosen = model.get("chosen");
      bar.replaceChildren(
        button("Undo", "Undo the last click (U)", () => send({ kind: "undo" })),
        button("Redo", "Redo (R)", () => send({ kind: "redo" })),
        button("New object", "Start another object (N)", () => send({ kind: "new" })),
        ...model.get("objects").map(({ id, colour, share }, number) => {
          const text = `${number + 1}: ${(100 * share).toFixed(1)} %`;
          const one = button(text, `Clicks go to object ${number + 1}`, () =>
            send({ kind: "choose", object: id }),
          );
          one.className = "object";
          one.style.setProperty("--colour", colour);
          one.ariaPressed = String(id === chosen);
          return one;
        }),
      );
    }

    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 && event.button !== 2) return;
      event.preventDefault();
      canvas.focus();
      const box = canvas.getBoundingClientRect();
      const [width, height] = model.get("size");
      const x = ((event.clientX - box.left) / box.width) * width - 0.5;
      const y = ((event.clientY - box.top) / box.height) * height - 0.5;
      send({
        kind: "click",
        x: Math.min(Math.max(x, 0), width - 1),
        y: Math.min(Math.max(y, 0), height - 1),
        positive: event.button === 0 && !event.altKey,
      });
    });
    // JupyterLab moves the focus to the cell, and opens a menu of its own.
    canvas.addEventListener("pointerup", () => setTimeout(() => canvas.focus()));
    canvas.addEventListener("contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation();
    });
    canvas.addEventListener("keydown", (event) => {
      const kind = COMMANDS[event.key.toLowerCase()];
      if (!kind || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation(); // the notebook has commands on the same keys
      send({ kind });
    });

    const changes = {
      "change:image": redraw,
      "change:overlay": redraw,
      "change:objects": () => (buttons(), paint()),
      "change:chosen": () => (buttons(), paint()),
      "change:status": () => (status.textContent = model.get("status")),
      "change:answered": () => root.classList.toggle("waiting", model.get("answered") < sent),
    };
    for (const [name, react] of Object.entries(changes)) model.on(name, react);
    buttons();
    status.textContent = model.get("status");
    redraw();
    return () => {
      for (const [name, react] of Object.entries(changes)) model.off(name, react);
    };
  },
};

function element(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

function button(text, title, act) {
  const made = element("button", { type: "button", textContent: text, title });
  made.addEventListener("click", act);
  return made;
}

/** A picture from the bytes of a trait; null without bytes. */
async function bitmap(bytes) {
  return bytes?.byteLength ? createImageBitmap(new Blob([bytes])) : null;
}
