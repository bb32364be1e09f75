// The classes: one button per class, which sets the class of the active object; and a field for a
// new one. The keys 1 to 9 are the first nine.

import { get, make, refill } from "./dom.js";

export class ClassList {
  #session;
  #album;
  #field = this.#makeField();

  constructor(session, album) {
    this.#session = session;
    this.#album = album;
    album.addEventListener("change", () => this.render());
  }

  /** Give the active object the class with this number (from 1), or take it away. Returns a message. */
  set(number) {
    const name = this.#album.classes[number - 1];
    if (!name) return `There is no class ${number}. Add classes under the objects.`;
    const { active } = this.#session;
    const label = active.label === name ? "" : name;
    this.#session.setLabel(active.id, label);
    return `${active.name}: ${label || "no class"}.`;
  }

  render() {
    const { classes } = this.#album;
    const chips = classes.map((name, index) => this.#chip(name, index + 1));
    this.#field.placeholder = classes.length ? "Add class" : "Add a class, such as cat";
    const typing = document.activeElement === this.#field;
    refill(get("classes"), [...chips, this.#field]);
    if (typing) this.#field.focus();
  }

  #chip(name, number) {
    const key = number < 10 ? make("kbd", { textContent: number }) : "";
    const chip = make("button", { type: "button", className: "chip" }, key, name);
    chip.ariaPressed = String(this.#session.active.label === name);
    chip.title = `${number < 10 ? `Press ${number}. ` : ""}Shift+click removes the class`;
    chip.dataset.key = `class${name}`;
    chip.onclick = (event) => {
      if (event.shiftKey) this.#album.setClasses(this.#album.classes.filter((other) => other !== name));
      else this.set(number);
    };
    return chip;
  }

  #makeField() {
    const field = make("input", { maxLength: 60 });
    field.ariaLabel = "New class";
    field.onkeydown = (event) => {
      if (event.key === "Escape") field.blur();
      if (event.key !== "Enter") return;
      const name = field.value.trim();
      field.value = "";
      if (name && !this.#album.classes.includes(name)) this.#album.setClasses([...this.#album.classes, name]);
    };
    return field;
  }
}
