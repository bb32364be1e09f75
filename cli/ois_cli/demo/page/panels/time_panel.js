// The panel "time of a click": the last click's parts, and how it compares.

import { get, make } from "./dom.js";
import { PARTS, inWords, median } from "../session/timing.js";

export function render(session) {
  const { times, image } = session;
  const last = times.at(-1);
  get("time-bar").replaceChildren();
  get("time-parts").replaceChildren();
  if (!last) {
    get("time-total").textContent = "–";
    get("time-note").textContent = encodeNote(image);
    return;
  }
  const typical = times.length > 1 ? `median of ${times.length}: ${inWords(median(times.map((time) => time.total)))}` : "";
  get("time-total").replaceChildren(inWords(last.total), " ", make("small", { textContent: typical }));
  for (const [name, label] of PARTS) {
    if (last[name] < 0.05) continue;
    const piece = make("i", { className: `part-${name}` });
    piece.style.flexGrow = last[name];
    get("time-bar").append(piece);
    get("time-parts").append(
      make("i", { className: `part-${name}` }),
      make("dt", { textContent: label }),
      make("dd", { textContent: inWords(last[name]) }),
    );
  }
  get("time-note").textContent = encodeNote(image);
}

function encodeNote(image) {
  const stages = image?.encode.stages.encode;
  if (image?.encode.cached) return "The image was encoded before; clicks only run the small second half.";
  if (stages) return `The image was encoded once, in ${inWords(stages)}; every click only runs the small second half.`;
  return "The image is encoded once; every click only runs the small second half.";
}
