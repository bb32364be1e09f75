// Opens images: from the button, drop, paste, samples, and the image that was open before a reload.

import * as api from "../session/api.js";
import { get, make } from "./dom.js";
import { say, showTrouble } from "./notices.js";

export class ImageOpener {
  #session;
  #store;
  #facts;
  #current = null; // the AbortController of the image that is being opened

  constructor(session, store, facts) {
    this.#session = session;
    this.#store = store;
    this.#facts = facts;
    this.#addSamples();
    for (const id of ["open", "choose"]) get(id).onclick = () => get("file").click();
    get("file").onchange = () => {
      this.#openFirst(get("file").files, "");
      get("file").value = ""; // so that the same file can be chosen again
    };
    get("busy-cancel").onclick = () => this.stop();
    document.addEventListener("paste", ({ clipboardData }) =>
      this.#openFirst(clipboardData.files, "There is no image in the clipboard. Copy one, or choose a file"));
    this.#acceptDrops();
  }

  get isOpening() {
    return this.#current !== null;
  }

  stop() {
    this.#current?.abort();
    this.#session.retry(); // ends a pause before a retry, so that the stop takes effect now
  }

  /** Open the image that was open in this tab before a reload. */
  async restore() {
    const kept = await this.#store.load();
    if (kept) await this.open(kept.file, kept.name, kept.snapshot);
  }

  async open(file, name, kept) {
    const limit = this.#facts.max_bytes;
    if (file.size > limit) {
      return refuse(`${name} has ${mebibytes(file.size)} MiB; the demo accepts up to ${mebibytes(limit)}. Save it as JPEG, or scale it down`);
    }
    this.#current?.abort();
    const current = new AbortController();
    this.#current = current;
    busy(`Sending ${name}`, 0);
    try {
      const notes = await this.#session.open(file, name, {
        onSent: (share) => (share < 1 ? busy(`Sending ${name}`, share) : busy("Encoding the image")),
        signal: current.signal,
        ready: (blob) => createImageBitmap(blob),
        kept,
      });
      showTrouble(null);
      const { width, height } = this.#session.image;
      say([`${name}, ${width} × ${height} pixels`, ...notes, "Click on an object"].join(". ") + ".");
      this.#store.saveImage(file, name);
    } catch (error) {
      if (current.signal.aborted) say(`Opening ${name} was stopped.`);
      else refuse(`${name} could not be opened: ${error.message}`);
    } finally {
      if (this.#current === current) {
        this.#current = null;
        busy("");
      }
    }
  }

  #openFirst(files, otherwise) {
    if (files.length) this.open(files[0], files[0].name || "pasted image");
    else if (otherwise) refuse(otherwise);
  }

  #addSamples() {
    for (const { file, subject } of this.#facts.samples) {
      const picture = make("img", { src: `samples/${file}`, alt: "" });
      const button = make("button", { type: "button" }, picture);
      button.ariaLabel = `Open the sample photograph: ${subject}`;
      button.onclick = async () => {
        try {
          await this.open(await api.sample(file), file);
        } catch (error) {
          refuse(error.message);
        }
      };
      get("samples").append(make("li", {}, button));
    }
  }

  #acceptDrops() {
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      get("drop").hidden = false;
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) get("drop").hidden = true; // the pointer left the window
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      get("drop").hidden = true;
      this.#openFirst(event.dataTransfer.files, "The dropped item is not a file. Drop an image file");
    });
  }
}

const refuse = (message) => showTrouble({ message, temporary: false });

function busy(text, share) {
  get("busy").hidden = !text;
  get("busy-text").textContent = text;
  if (share === undefined) get("busy-bar").removeAttribute("value");
  else get("busy-bar").value = share;
}

const mebibytes = (bytes) => Math.round(bytes / 2 ** 20);
