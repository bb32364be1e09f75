// The list of images: those in the folder of `ois demo FOLDER`, and files that were opened here.
// Also the classes of objects. The store keeps both, and the work on every image.
//
// Event: "change" (the list, the current image, the progress of one, the classes).

export class Album extends EventTarget {
  #store;
  #fetch;
  #added = 0;

  /** folder: {name, files}, or null. classes: names. fetchListed(number): an image of the folder. */
  constructor(store, folder, classes, fetchListed) {
    super();
    this.#store = store;
    this.#fetch = fetchListed;
    this.folder = folder?.name ?? "";
    /** [{key, name, number}]; number: in the folder, undefined for files that were opened here. */
    this.entries = (folder?.files ?? []).map((name, number) => ({ key: `listed/${name}`, name, number }));
    this.current = null;
    /** The key of the image that is being opened; null if none is. */
    this.opening = null;
    /** key -> {done, objects, width, height, failed}, of images that were opened. */
    this.progress = {};
    this.classes = [...classes];
  }

  /** Restore the list as it was before a reload. */
  async restore() {
    const state = await this.#store.load("state");
    if (!state) return;
    this.entries = [...this.entries, ...state.added];
    this.#added = state.count;
    this.progress = state.progress;
    this.classes = [...new Set([...this.classes, ...state.classes])];
    this.current = this.entries.some(({ key }) => key === state.current) ? state.current : null;
    this.#emit();
  }

  get entry() {
    return this.entries.find(({ key }) => key === this.current) ?? null;
  }

  /** How many images are done. */
  get done() {
    return this.entries.filter(({ key }) => this.progress[key]?.done).length;
  }

  /** The key of the image that is shown, or will be. */
  get selected() {
    return this.opening ?? this.current;
  }

  /** The next (1) or previous (-1) image that can be opened; null at the end of the list. */
  neighbour(step) {
    let at = this.entries.findIndex(({ key }) => key === this.selected) + step;
    while (this.progress[this.entries[at]?.key]?.failed) at += step;
    return this.entries[at] ?? null;
  }

  /** The next image after the current one that is not done; null if all are. */
  get nextOpen() {
    const at = this.entries.findIndex(({ key }) => key === this.current);
    const ahead = [...this.entries.slice(at + 1), ...this.entries.slice(0, at)];
    return ahead.find(({ key }) => !this.progress[key]?.done && !this.progress[key]?.failed) ?? null;
  }

  /** Add a file that was opened here; the same file again is the same entry. */
  add(file, name) {
    const same = this.entries.find((entry) => entry.name === name && entry.size === file.size);
    if (same) return same;
    const entry = { key: `file/${++this.#added}`, name, size: file.size };
    this.entries = [...this.entries, entry];
    this.#store.save(`image/${entry.key}`, file);
    this.#save();
    return entry;
  }

  /** Remove a file that was opened here, with the work on it. */
  remove(key) {
    this.entries = this.entries.filter((entry) => entry.key !== key || entry.number !== undefined);
    delete this.progress[key];
    for (const part of ["image", "work"]) this.#store.remove(`${part}/${key}`);
    this.#save();
  }

  /** The image file of an entry. Throws if it cannot be read. */
  async file(entry) {
    if (entry.number !== undefined) return this.#fetch(entry.number);
    const file = await this.#store.load(`image/${entry.key}`);
    if (!file) throw new Error("the browser has not kept this file; open it again");
    return file;
  }

  /** The work on an entry, as `Session.snapshot` made it; null if there is none. */
  work(entry) {
    return this.#store.load(`work/${entry.key}`);
  }

  /** An image is being opened. */
  begin(entry) {
    this.opening = entry.key;
    this.#emit();
  }

  /** Opening it ended. failed: it cannot be opened, so it is passed over. */
  end(entry, failed) {
    if (this.opening === entry.key) this.opening = null;
    if (failed) this.progress[entry.key] = { objects: 0, ...this.progress[entry.key], failed };
    this.#emit();
  }

  setCurrent(entry) {
    this.current = entry.key;
    if (this.progress[entry.key]) delete this.progress[entry.key].failed;
    this.#save();
  }

  /** Keep the work on the current image. */
  saveWork(snapshot, objects, { width, height }) {
    if (!this.current) return;
    this.#store.save(`work/${this.current}`, snapshot);
    const before = this.progress[this.current];
    if (before?.objects === objects && before.width === width) return;
    this.progress[this.current] = { ...before, objects, width, height };
    this.#save();
  }

  setDone(key, done) {
    this.progress[key] = { objects: 0, ...this.progress[key], done };
    this.#save();
  }

  setClasses(names) {
    this.classes = names;
    this.#save();
  }

  #save() {
    const { current, progress, classes } = this;
    const added = this.entries.filter(({ number }) => number === undefined);
    this.#store.save("state", { current, progress, classes, added, count: this.#added });
    this.#emit();
  }

  #emit() {
    this.dispatchEvent(new CustomEvent("change"));
  }
}
