// Opens images: from the button, drop, paste, samples, the list, and the image that was open before a
// reload. Files of masks that are dropped are loaded.

import * as api from "../session/api.js";
import { get, make } from "./dom.js";
import { say, showTrouble } from "./notices.js";

export class ImageOpener {
  #session;
  #album;
  #facts;
  #loadMasks;
  #current = null; // the AbortController of the image that is being opened

  /** loadMasks(file): loads masks for the open image. */
  constructor(session, album, facts, loadMasks) {
    this.#session = session;
    this.#album = album;
    this.#facts = facts;
    this.#loadMasks = loadMasks;
    this.#addSamples();
    for (const id of ["open", "choose"]) get(id).onclick = () => get("file").click();
    get("file").onchange = () => {
      this.#openAll([...get("file").files], "");
      get("file").value = ""; // so that the same file can be chosen again
    };
    get("busy-cancel").onclick = () => this.stop();
    document.addEventListener("paste", ({ clipboardData }) =>
      this.#openAll([...clipboardData.files], "There is no image in the clipboard. Copy one, or choose a file"));
    this.#acceptDrops();
  }

  get isOpening() {
    return this.#current !== null;
  }

  stop() {
    this.#current?.abort();
    this.#session.retry(); // ends a pause before a retry, so that the stop takes effect now
  }

  /** Open an image of the list with the work on it. */
  async openEntry(entry) {
    let failed = false;
    this.#album.begin(entry);
    try {
      const [file, work] = await Promise.all([this.#album.file(entry), this.#album.work(entry)]);
      if (this.#album.opening === entry.key) failed = await this.open(file, entry.name, work, entry);
    } catch (error) {
      failed = true;
      refuse(`${entry.name} could not be opened: ${error.message}`);
    }
    this.#album.end(entry, failed);
  }

  /**
   * kept: the work on it, or null. entry: in the list; without one, it is added to the list. Returns
   * whether it cannot be opened.
   */
  async open(file, name, kept, entry) {
    const limit = this.#facts.max_bytes;
    if (file.size > limit) {
      refuse(`${name} has ${mebibytes(file.size)} MiB; the demo accepts up to ${mebibytes(limit)}. Save it as JPEG, or scale it down`);
      return true;
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
        opened: () => this.#album.setCurrent(entry ?? this.#album.add(file, name)),
        kept,
      });
      showTrouble(null);
      const { width, height } = this.#session.image;
      say([`${name}, ${width} × ${height} pixels`, ...notes, "Click on an object"].join(". ") + ".");
      return false;
    } catch (error) {
      if (current.signal.aborted) {
        if (this.#current === current) say(`Opening ${name} was stopped.`);
        return false;
      }
      refuse(`${name} could not be opened: ${error.message}`);
      return true;
    } finally {
      if (this.#current === current) {
        this.#current = null;
        busy("");
      }
    }
  }

  /** Open the first image of files, and add the others to the list. otherwise: if there is none. */
  async #openAll(files, otherwise) {
    const [first, ...others] = files;
    if (!first) {
      if (otherwise) refuse(otherwise);
      return;
    }
    if (/\.json$/i.test(first.name)) {
      this.#loadMasks(first);
      return;
    }
    await this.#openFile(first, first.name || "pasted image");
    for (const file of others.filter((file) => file.size <= this.#facts.max_bytes)) this.#album.add(file, file.name);
  }

  /** A file that is in the list already is opened with the work on it. */
  async #openFile(file, name) {
    const known = this.#album.entries.find((entry) => entry.name === name && entry.size === file.size);
    await this.open(file, name, known && (await this.#album.work(known)), known);
  }

  #addSamples() {
    for (const { file, subject } of this.#facts.samples) {
      const picture = make("img", { src: `samples/${file}`, alt: "" });
      const button = make("button", { type: "button" }, picture);
      button.ariaLabel = `Open the sample photograph: ${subject}`;
      button.onclick = async () => {
        try {
          await this.#openFile(await api.sample(file), file);
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
      this.#openAll([...event.dataTransfer.files], "The dropped item is not a file. Drop an image file");
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
