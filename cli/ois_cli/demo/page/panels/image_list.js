// The list of images with their progress. It is shown if there is more than one image.

import { get, icon, make, refill } from "./dom.js";

export class ImageList {
  #album;
  #open;

  /** open(entry): open an image. */
  constructor(album, open) {
    this.#album = album;
    this.#open = open;
    album.addEventListener("change", () => this.render());
    get("image-previous").onclick = () => this.next(-1);
    get("image-next").onclick = () => this.next(1);
    get("image-done").onclick = () => this.doneAndNext();
  }

  next(step) {
    const entry = this.#album.neighbour(step);
    if (entry) this.#open(entry);
  }

  /** Mark the current image as done, and open the next one that is not. Returns a message. */
  doneAndNext() {
    const { current, entries, opening } = this.#album;
    if (!current || opening || entries.length < 2) return "";
    this.#album.setDone(current, true);
    const open = this.#album.nextOpen;
    if (open) this.#open(open);
    return open ? `${this.#album.done} of ${entries.length} images are done.` : "All images are done.";
  }

  render() {
    const { entries, done, folder, progress, current, selected } = this.#album;
    get("album").hidden = entries.length < 2;
    if (get("album").hidden) return;
    get("album-title").textContent = folder || "Images";
    get("album-count").textContent = `${done} of ${entries.length} done`;
    get("album-bar").value = done / entries.length;
    const isDone = progress[current]?.done;
    get("image-done").querySelector("span").textContent = isDone ? "Next open" : "Done, next";
    get("image-done").disabled = !current;
    get("image-previous").disabled = !this.#album.neighbour(-1);
    get("image-next").disabled = !this.#album.neighbour(1);
    refill(get("images"), entries.map((entry) => this.#row(entry, progress[entry.key], entry.key === selected)));
    get("images").querySelector(".active")?.scrollIntoView({ block: "nearest" });
  }

  #row(entry, facts, active) {
    const state = facts?.failed ? "failed" : facts?.done ? "done" : facts?.objects ? "begun" : "";
    const mark = make("button", { type: "button", className: `plain mark ${state}`, disabled: !facts }, ...(facts?.done ? [icon("check")] : []));
    mark.ariaLabel = mark.title = `${entry.name}: ${facts?.done ? "done; press to reopen" : "mark as done"}`;
    mark.dataset.key = `mark${entry.key}`;
    mark.onclick = () => this.#album.setDone(entry.key, !facts.done);
    const count = facts?.objects ? make("small", { textContent: `${facts.objects}` }) : "";
    const pick = make("button", { type: "button", className: "pick" }, make("span", { textContent: entry.name }), count);
    if (facts?.failed) pick.title = `${entry.name} could not be opened; press to try again`;
    else pick.title = `${entry.name}${facts?.objects ? `, ${facts.objects} object${facts.objects > 1 ? "s" : ""}` : ""}`;
    pick.ariaCurrent = String(active);
    pick.dataset.key = entry.key;
    pick.onclick = () => this.#open(entry);
    const row = make("li", { className: active ? "active" : "" }, mark, pick);
    if (entry.number === undefined && !active) row.append(this.#bin(entry));
    return row;
  }

  #bin(entry) {
    const bin = make("button", { type: "button", className: "plain", onclick: () => this.#album.remove(entry.key) }, icon("bin"));
    bin.ariaLabel = bin.title = `Remove ${entry.name} from the list, with its masks`;
    bin.dataset.key = `bin${entry.key}`;
    return bin;
  }
}
