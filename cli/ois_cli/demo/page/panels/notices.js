// What is said to the person: a line at the bottom that screen readers follow, and the box for
// trouble, which stays until it is over or dismissed.

import { get } from "./dom.js";

export const say = (text) => (get("status").textContent = text);

/** What may pass by itself, for a person who did not start the server. */
const PLAIN = {
  SERVER_UNAVAILABLE: "The server with the engines does not answer",
  SERVER_OVERLOADED: "The server has too much to do",
  DEADLINE_EXCEEDED: "The answer did not come in time",
};

/**
 * trouble: {code, message, passing, waiting: clicks that wait, giveUp: what the second button
 * says, "" for none}; null when it is over.
 */
export function showTrouble(trouble) {
  get("trouble").hidden = !trouble;
  if (!trouble) return;
  const { code, message, passing, waiting = 0, giveUp = "Dismiss" } = trouble;
  const waits = ["", "Your click waits. ", `Your ${waiting} clicks wait. `][Math.min(waiting, 2)];
  const plain = PLAIN[code] ?? message;
  get("trouble-text").textContent = `${plain}.${passing ? ` ${waits}Trying again.` : ""}`;
  get("trouble-more").hidden = plain === message;
  get("trouble-details").textContent = message;
  get("trouble-retry").hidden = !passing;
  get("trouble-drop").hidden = !giveUp;
  get("trouble-drop").textContent = giveUp;
}
