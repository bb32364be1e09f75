// The list of objects: colour, name, size, show or hide, delete. Double-click or F2 renames.

import { get, icon, make, refill } from "./dom.js";

export class ObjectList {
  #session;
  #colourOf;
  #onHide;
  #renaming = null;
  /** Ids of objects whose masks are not shown. */
  hidden = new Set();

  /** colourOf(id): [r, g, b]. onHide(): called after an object was shown or hidden. */
  constructor(session, colourOf, onHide) {
    this.#session = session;
    this.#colourOf = colourOf;
    this.#onHide = onHide;
  }

  render() {
    if (document.activeElement.matches("#objects input")) return; // the user is typing a name
    refill(get("objects"), this.#session.doc.objects.map((object) => this.#row(object)));
  }

  #row(object) {
    const session = this.#session;
    const active = object.id === session.doc.active;
    const swatch = make("span", { className: "colour" });
    swatch.style.backgroundColor = `rgb(${this.#colourOf(object.id)})`;
    const hidden = this.hidden.has(object.id);
    const show = make("button", { type: "button", className: "plain", onclick: () => this.#toggle(object.id) }, icon(hidden ? "eye-off" : "eye"));
    show.ariaLabel = show.title = `${hidden ? "Show" : "Hide"} ${object.name}`;
    show.dataset.key = `show${object.id}`;
    const bin = make("button", { type: "button", className: "plain", onclick: () => session.remove(object.id) }, icon("bin"));
    bin.ariaLabel = bin.title = `Delete ${object.name}`;
    bin.dataset.key = `bin${object.id}`;
    const name = this.#renaming === object.id ? this.#input(object) : this.#name(object, active);
    return make("li", { className: active ? "active" : "" }, swatch, name, show, bin);
  }

  #name(object, active) {
    const { image } = this.#session;
    const share = object.mask && image ? (100 * object.mask.area) / (image.width * image.height) : null;
    const size = share === null ? "no clicks" : `${share.toFixed(share < 10 ? 1 : 0)} %`;
    const label = object.label ? make("em", { textContent: object.label }) : "";
    const pick = make("button", { type: "button", className: "pick" }, make("span", { textContent: object.name }), label, make("small", { textContent: size }));
    pick.ariaPressed = String(active);
    pick.title = "Double-click or press F2 to rename";
    pick.dataset.key = `pick${object.id}`;
    pick.onclick = () => this.#session.select(object.id);
    pick.ondblclick = () => this.#rename(object.id);
    pick.onkeydown = (event) => event.key === "F2" && this.#rename(object.id);
    return pick;
  }

  #input(object) {
    const input = make("input", { value: object.name, maxLength: 60 });
    input.ariaLabel = "Name of the object";
    input.dataset.key = `name${object.id}`;
    const finish = (name) => {
      if (this.#renaming !== object.id) return;
      this.#renaming = null;
      input.blur();
      if (name && name !== object.name) this.#session.rename(object.id, name);
      else this.render();
    };
    input.onkeydown = (event) => {
      if (event.key === "Enter") finish(input.value.trim());
      if (event.key === "Escape") finish("");
    };
    input.onblur = () => finish(input.value.trim());
    return input;
  }

  #rename(id) {
    this.#renaming = id;
    this.render();
    get("objects").querySelector("input")?.select();
  }

  #toggle(id) {
    if (!this.hidden.delete(id)) this.hidden.add(id);
    this.render();
    this.#onHide();
  }
}
