// The page's entry point: connects session, canvas and panels.

import * as api from "./session/api.js";
import { get } from "./panels/dom.js";
import { listen as listenToPointers } from "./canvas/gestures.js";
import { NetworkPanel } from "./panels/network_panel.js";
import { say, showTrouble } from "./panels/notices.js";
import { ObjectList } from "./panels/object_list.js";
import { ImageOpener } from "./panels/image_opener.js";
import { Previews } from "./canvas/previews.js";
import { readMask } from "./canvas/raster.js";
import { save } from "./panels/saving.js";
import { Session } from "./session/session.js";
import { listen as listenToKeys } from "./panels/shortcuts.js";
import { Stage } from "./canvas/stage.js";
import { openStore } from "./session/store.js";
import * as timePanel from "./panels/time_panel.js";
import { formatMs } from "./session/timing.js";

const KINDS = ["mask", "coco", "cutout"];
/** A step of the crosshair in CSS pixels. With Shift, a step is one pixel of the image. */
const CROSSHAIR_STEP = 24;

async function begin() {
  const facts = await waitForGateway();
  const store = await openStore();
  const session = new Session(api);
  const canvas = get("canvas");
  const stage = new Stage(canvas, ({ scale }) => (get("zoom").textContent = `${Math.round(scale * 100)} %`));
  const colourOf = (id) => facts.colours[(id - 1) % facts.colours.length];
  const adds = () => document.querySelector("input[name=sign]:checked").value === "add";
  const list = new ObjectList(session, colourOf, render);
  const networkPanel = new NetworkPanel(session, stage, facts.viridis);
  const opener = new ImageOpener(session, store, facts);
  const previews = new Previews(session, stage, colourOf, adds);
  const decoded = new WeakMap(); // mask -> promise of the result of readMask
  let hand = false; // whether Space is held, so that the left button moves the image
  let round = 0;

  // -- rendering ---------------------------------------------------------------------------

  function render() {
    list.render();
    timePanel.render(session);
    networkPanel.render();
    drawClicks();
    drawMasks();
    get("undo-button").disabled = !session.canUndo;
    get("redo-button").disabled = !session.canRedo;
    get("new-object").disabled = !session.image;
    const noMask = !session.doc.objects.some(({ mask }) => mask);
    for (const kind of KINDS) get(`save-${kind}`).disabled = noMask;
  }

  function drawClicks() {
    const { doc, waiting } = session;
    const visible = doc.objects.filter(({ id }) => !list.hidden.has(id));
    const answered = visible.flatMap(({ id, clicks }) =>
      clicks.map((click) => ({ ...click, colour: colourOf(id), active: id === doc.active })));
    const unanswered = waiting.map((click) => ({ ...click, active: true, waiting: true }));
    stage.clicks = [...answered.sort((a, b) => a.active - b.active), ...unanswered];
    stage.redraw();
  }

  async function drawMasks() {
    const current = ++round;
    const { doc } = session;
    const shown = doc.objects.filter(({ id, mask }) => mask && !list.hidden.has(id));
    shown.sort((a, b) => (a.id === doc.active) - (b.id === doc.active));
    const masks = await Promise.all(shown.map(async ({ id, mask }) => {
      const colour = colourOf(id);
      if (!decoded.has(mask)) decoded.set(mask, readMask(mask.shown, colour));
      return { ...(await decoded.get(mask)), colour };
    }));
    if (current !== round) return; // a newer call will draw
    stage.masks = masks;
    stage.redraw();
  }

  session.addEventListener("image", () => {
    const { shown, width, height } = session.image;
    stage.show(shown, width, height);
    get("welcome").hidden = true;
    canvas.classList.remove("empty");
  });
  session.addEventListener("change", () => {
    render();
    networkPanel.loadMaps();
    if (session.image) store.saveSnapshot(session.snapshot());
  });
  session.addEventListener("trouble", () => {
    const { trouble, waiting } = session;
    const stop = opener.isOpening ? "Stop opening" : "Discard clicks";
    const dropLabel = trouble?.temporary ? stop : "Dismiss";
    showTrouble(trouble && { ...trouble, waiting: waiting.length, dropLabel });
  });
  session.addEventListener("answer", ({ detail: { object, mask } }) => {
    const share = (100 * mask.area) / (session.image.width * session.image.height);
    const count = object.clicks.length;
    say(`${object.name}: ${share.toFixed(1)} % of the image after ${count} click${count > 1 ? "s" : ""}, ${formatMs(mask.time.total)}.`);
  });

  // -- actions -----------------------------------------------------------------------------

  function click(place, positive) {
    if (!place || !session.image) return;
    previews.stop();
    session.click(place.x, place.y, positive);
  }

  listenToPointers(canvas, () => hand, {
    click(point, remove) {
      stage.crosshair = null;
      click(stage.clickAt(point), remove ? false : adds());
    },
    zoom: (factor, point) => stage.zoom(factor, point),
    pan: (dx, dy) => stage.pan(dx, dy),
    hover: (point) => previews.follow(point && !hand && !opener.isOpening && stage.clickAt(point)),
  });

  const actions = {
    undo: () => session.undo(),
    redo: () => session.redo(),
    newObject: () => session.image && session.newObject(),
    pick(number) {
      const object = session.doc.objects[number - 1];
      if (object) session.select(object.id);
    },
    sign(positive) {
      document.querySelector(`input[name=sign][value=${positive ? "add" : "remove"}]`).checked = true;
      say(positive ? "Clicks add." : "Clicks remove.");
    },
    togglePreview: () => get("hover").click(),
    nextLayer: (step) => networkPanel.next(step),
    zoom: (factor) => stage.zoom(factor),
    fit: () => stage.fit(),
    fade: (step) => setOpacity(Number(get("opacity").value) + step),
    help: () => get("help-dialog").showModal(),
    hand(held) {
      hand = held;
      canvas.classList.toggle("moving", held);
    },
    crosshair(dx, dy, fine) {
      if (!session.image) return;
      const step = fine ? 1 : Math.max(1, Math.round(CROSSHAIR_STEP / stage.view.scale));
      stage.moveCrosshair(dx * step, dy * step);
      say(`Crosshair at ${stage.crosshair.x}, ${stage.crosshair.y}.`);
    },
    clickCrosshair: (positive) => click(stage.crosshair, positive),
    hideCrosshair() {
      stage.crosshair = null;
      stage.redraw();
    },
  };
  listenToKeys(canvas, actions);

  function setOpacity(percent) {
    get("opacity").value = percent;
    stage.opacity = get("opacity").value / 100;
    stage.redraw();
  }

  get("undo-button").onclick = actions.undo;
  get("redo-button").onclick = actions.redo;
  get("new-object").onclick = actions.newObject;
  get("zoom-in").onclick = () => stage.zoom(1.25);
  get("zoom-out").onclick = () => stage.zoom(0.8);
  get("fit-button").onclick = actions.fit;
  get("help-button").onclick = actions.help;
  get("opacity").oninput = () => setOpacity(get("opacity").value);
  get("trouble-retry").onclick = () => session.retry();
  get("trouble-drop").onclick = () => {
    opener.stop();
    session.drop();
    showTrouble(null);
  };
  for (const kind of KINDS) {
    get(`save-${kind}`).onclick = async () => {
      try {
        say(`Saved ${await save(kind, session, list.hidden)}.`);
      } catch (error) {
        showTrouble({ message: `The file was not saved: ${error.message}` });
      }
    };
  }

  // -- start -------------------------------------------------------------------------------

  const random = facts.trained ? "" : " · random weights: masks are meaningless";
  get("model").textContent = `${facts.network} · ${facts.where}${random}`;
  get("model").title = facts.engine;
  get("model-note").textContent = facts.note;
  canvas.classList.add("empty");
  say("Ready. Drop, paste or choose an image.");
  render();
  await opener.restore();
  document.documentElement.dataset.ready = "yes";
}

/** Wait until the gateway and the engines answer. Returns the facts about them. */
async function waitForGateway() {
  for (;;) {
    try {
      const facts = await api.info();
      showTrouble(null);
      return facts;
    } catch (error) {
      const { code, message, temporary } = error;
      showTrouble({ code, message, temporary, dropLabel: "" });
      if (!temporary) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

begin();
