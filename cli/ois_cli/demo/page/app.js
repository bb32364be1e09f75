// The page's entry point: connects session, canvas and panels.

import * as api from "./session/api.js";
import { Album } from "./session/album.js";
import { ClassList } from "./panels/class_list.js";
import { get } from "./panels/dom.js";
import { listen as listenToPointers } from "./canvas/gestures.js";
import { ImageList } from "./panels/image_list.js";
import { ImageOpener } from "./panels/image_opener.js";
import { NetworkPanel } from "./panels/network_panel.js";
import { say, sayAnswer, showTrouble } from "./panels/notices.js";
import { ObjectList } from "./panels/object_list.js";
import { openStore } from "./session/store.js";
import { Previews } from "./canvas/previews.js";
import { save, saveAll } from "./panels/saving.js";
import { Scene } from "./canvas/scene.js";
import { Session } from "./session/session.js";
import { listen as listenToKeys } from "./panels/shortcuts.js";
import { Stage } from "./canvas/stage.js";
import * as timePanel from "./panels/time_panel.js";
import { Toolbar } from "./panels/toolbar.js";
import { Tools } from "./canvas/tools.js";

const KINDS = ["mask", "coco", "cutout"];
/** A step of the crosshair in CSS pixels. With Shift, a step is one pixel of the image. */
const CROSSHAIR_STEP = 24;
/** Milliseconds of an image's encode from which on clicks do not look closer by themselves. */
const SLOW_ENCODE = 500;

async function begin() {
  const facts = await waitForGateway();
  const store = await openStore(facts.folder?.id);
  const session = new Session(api);
  const album = new Album(store, store.taken ? null : facts.folder, facts.classes, api.listed);
  const canvas = get("canvas");
  const stage = new Stage(canvas, () => toolbar.showView());
  const tools = new Tools(session, stage, colourOf, facts.max_clicks);
  const toolbar = new Toolbar(tools, stage);
  const list = new ObjectList(session, colourOf, render);
  const classes = new ClassList(session, album);
  const scene = new Scene(session, stage, colourOf, list.hidden);
  const networkPanel = new NetworkPanel(session, stage, facts.viridis, facts.attention);
  const opener = new ImageOpener(session, album, facts, loadMasks);
  const images = new ImageList(album, (entry) => opener.openEntry(entry));
  const previews = new Previews(session, stage, colourOf, () => toolbar.adds);
  let hand = false; // whether Space is held, so that the left button moves the image

  function colourOf(id) {
    return facts.colours[(id - 1) % facts.colours.length];
  }

  // -- rendering ---------------------------------------------------------------------------

  function render() {
    list.render();
    classes.render();
    timePanel.render(session);
    networkPanel.render();
    scene.render();
    get("undo-button").disabled = !session.canUndo;
    get("redo-button").disabled = !session.canRedo;
    get("new-object").disabled = get("load-masks").disabled = !session.image;
    const noMask = !session.doc.objects.some(({ mask }) => mask?.area);
    for (const kind of KINDS) get(`save-${kind}`).disabled = noMask;
    get("save-all").hidden = album.entries.length < 2;
  }

  album.addEventListener("change", render);
  session.addEventListener("image", () => {
    const { shown, width, height } = session.image;
    tools.cancel();
    stage.show(shown, width, height);
    get("welcome").hidden = true;
    canvas.classList.remove("empty");
  });
  // A window costs an encode, so it is not the default where that is slow. A choice of the user stays.
  const closer = get("closer");
  let chosen = false;
  const lookCloser = () => (session.zoomFrom = closer.checked ? facts.zoom_from : 0);
  closer.onchange = () => {
    chosen = true;
    lookCloser();
  };
  session.addEventListener("image", () => {
    if (chosen) return;
    closer.checked = !(session.image.encode.stages.encode > SLOW_ENCODE);
    lookCloser();
  });
  session.addEventListener("change", () => {
    render();
    networkPanel.loadMaps();
    const masks = session.doc.objects.filter(({ mask }) => mask?.area);
    if (session.image) album.saveWork(session.snapshot(), masks.length, session.image);
  });
  session.addEventListener("coarse", () => scene.render());
  session.addEventListener("trouble", () => {
    const { trouble, waiting } = session;
    const stop = opener.isOpening ? "Stop opening" : "Discard clicks";
    const dropLabel = trouble?.temporary ? stop : "Dismiss";
    showTrouble(trouble && { ...trouble, waiting: waiting.length, dropLabel });
  });
  session.addEventListener("answer", ({ detail }) => sayAnswer(detail, session.image));

  // -- actions -----------------------------------------------------------------------------

  /** A single click at a position of the image; the brush paints a dot. */
  function click(place, positive) {
    if (!place || !session.image) return;
    previews.stop();
    if (tools.tool === "brush") {
      tools.begin(place, positive);
      tools.end();
    } else session.click({ x: place.x, y: place.y, positive });
  }

  listenToPointers(canvas, { isPanning: () => hand, draws: () => tools.draws }, {
    click(point, remove) {
      stage.crosshair = null;
      click(stage.clickAt(point), remove ? false : toolbar.adds);
    },
    begin(point, remove) {
      previews.stop();
      tools.begin(stage.pointAt(point), remove ? false : toolbar.adds);
    },
    draw(point) {
      tools.move(stage.pointAt(point));
      toolbar.showBrush(point);
    },
    end: () => tools.end(),
    cancel: () => tools.cancel(),
    zoom: (factor, point) => stage.zoom(factor, point),
    pan: (dx, dy) => stage.pan(dx, dy),
    hover(point) {
      const free = point && !hand && !opener.isOpening;
      previews.follow(free && tools.tool === "click" && stage.clickAt(point));
      toolbar.showBrush(free ? point : null);
    },
  });

  const actions = {
    undo: () => session.undo(),
    redo: () => session.redo(),
    newObject: () => session.image && session.newObject(),
    nextObject(step) {
      const { objects, active } = session.doc;
      const at = objects.findIndex(({ id }) => id === active);
      const { id, name } = objects[(at + step + objects.length) % objects.length];
      session.select(id);
      say(`${name} is active.`);
    },
    classOf: (number) => session.image && say(classes.set(number)),
    nextImage: (step) => images.next(step),
    doneAndNext: () => say(images.doneAndNext()),
    tool(name) {
      previews.stop();
      tools.cancel();
      toolbar.choose(name);
    },
    sign: (positive) => toolbar.sign(positive),
    togglePreview: () => get("hover").click(),
    nextLayer: (step) => networkPanel.next(step),
    zoom: (factor) => stage.zoom(factor),
    fit: () => stage.fit(),
    less: () => toolbar.step(-1),
    more: () => toolbar.step(1),
    help: () => get("help-dialog").showModal(),
    hand(held) {
      hand = held;
      canvas.classList.toggle("moving", held);
    },
    crosshair(dx, dy, fine) {
      if (!session.image) return;
      canvas.focus();
      const step = fine ? 1 : Math.max(1, Math.round(CROSSHAIR_STEP / stage.view.scale));
      stage.moveCrosshair(dx * step, dy * step);
      tools.move(stage.crosshair);
      say(`Crosshair at ${stage.crosshair.x}, ${stage.crosshair.y}.`);
    },
    /** Click; or begin to draw, and end it with the second press. */
    atCrosshair(positive) {
      if (!stage.crosshair) return;
      if (!tools.draws) click(stage.crosshair, positive);
      else if (tools.isDrawing) tools.end();
      else {
        tools.begin(stage.crosshair, positive);
        say("Drawing. Move with the arrows, press again to end, Escape to stop.");
      }
    },
    escape() {
      if (tools.isDrawing) return tools.cancel();
      stage.crosshair = null;
      stage.redraw();
    },
  };
  listenToKeys(canvas, actions);

  async function loadMasks(file) {
    try {
      if (!session.image) throw new Error("open the image first");
      const count = await session.loadMasks(file);
      say(`${count} object${count > 1 ? "s" : ""} from ${file.name}. Click to refine, or paint with the brush.`);
    } catch (error) {
      showTrouble({ message: `${file.name} was not loaded: ${error.message}` });
    }
  }

  get("undo-button").onclick = actions.undo;
  get("redo-button").onclick = actions.redo;
  get("new-object").onclick = actions.newObject;
  get("zoom-in").onclick = () => stage.zoom(1.25);
  get("zoom-out").onclick = () => stage.zoom(0.8);
  get("fit-button").onclick = actions.fit;
  get("help-button").onclick = actions.help;
  get("trouble-retry").onclick = () => session.retry();
  get("trouble-drop").onclick = () => {
    opener.stop();
    session.drop();
    showTrouble(null);
  };
  get("coarse-control").hidden = !facts.coarse_answers;
  session.progressive = facts.coarse_answers;
  get("coarse").onchange = () => (session.progressive = get("coarse").checked);
  lookCloser();
  get("load-masks").onclick = () => get("mask-file").click();
  get("mask-file").onchange = () => {
    loadMasks(get("mask-file").files[0]);
    get("mask-file").value = "";
  };
  for (const kind of KINDS) saves(`save-${kind}`, () => save(kind, session, list.hidden, album.classes));
  saves("save-all", () => saveAll(session, album, (count) => say(`Collecting masks: ${count} images.`)));

  function saves(id, make) {
    get(id).onclick = async () => {
      try {
        say(`Saved ${await make()}.`);
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
  say("Ready. Drop, paste or choose images.");
  render();
  await album.restore();
  const first = album.entry ?? (facts.folder && album.entries[0]);
  images.render();
  if (first) await opener.openEntry(first);
  if (store.taken) showTrouble({ message: `${facts.folder.name} is open in another tab, which has the work on it. Close that tab and reload this one` });
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
