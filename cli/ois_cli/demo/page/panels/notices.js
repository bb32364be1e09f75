// Messages to the user: the status line, which screen readers announce, and the error box, which
// stays until the error is over or dismissed.

import { get } from "./dom.js";
import { formatMs } from "../session/timing.js";

export const say = (text) => (get("status").textContent = text);

/** Say what a step changed: see the session's event "answer". */
export function sayAnswer({ object, mask, step }, image) {
  const size = `${((100 * mask.area) / (image.width * image.height)).toFixed(1)} % of the image`;
  const count = object.clicks.length;
  if (step.stroke) say(`${object.name}: ${size} after ${step.stroke.paint ? "painting" : "erasing"}. The next click refines this mask.`);
  else say(`${object.name}: ${size} after ${count} click${count > 1 ? "s" : ""}, ${formatMs(mask.time.total)}.`);
}

/** Texts for temporary errors. */
const TEXTS = {
  SERVER_UNAVAILABLE: "The server with the engines does not answer",
  SERVER_OVERLOADED: "The server is overloaded",
  DEADLINE_EXCEEDED: "The server did not answer in time",
};

/**
 * Show an error; null hides the box. trouble: {code, message, temporary, waiting: number of waiting
 * clicks, dropLabel: text of the second button, "" for no button}.
 */
export function showTrouble(trouble) {
  get("trouble").hidden = !trouble;
  if (!trouble) return;
  const { code, message, temporary, waiting = 0, dropLabel = "Dismiss" } = trouble;
  const waits = ["", "Your click is waiting. ", `Your ${waiting} clicks are waiting. `][Math.min(waiting, 2)];
  const text = TEXTS[code] ?? message;
  get("trouble-text").textContent = `${text}.${temporary ? ` ${waits}Trying again.` : ""}`;
  get("trouble-more").hidden = text === message;
  get("trouble-details").textContent = message;
  get("trouble-retry").hidden = !temporary;
  get("trouble-drop").hidden = !dropLabel;
  get("trouble-drop").textContent = dropLabel;
}
