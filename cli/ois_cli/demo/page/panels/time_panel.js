// The panel "Time per click": the parts of the last click, and the median of all.

import { get, make } from "./dom.js";
import { PARTS, formatMs, median } from "../session/timing.js";

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
  const typical = times.length > 1 ? `median of ${times.length}: ${formatMs(median(times.map((time) => time.total)))}` : "";
  get("time-total").replaceChildren(formatMs(last.total), " ", make("small", { textContent: typical }));
  for (const [name, label] of PARTS) {
    if (last[name] < 0.05) continue;
    const piece = make("i", { className: `part-${name}` });
    piece.style.flexGrow = last[name];
    get("time-bar").append(piece);
    get("time-parts").append(
      make("i", { className: `part-${name}` }),
      make("dt", { textContent: label }),
      make("dd", { textContent: formatMs(last[name]) }),
    );
  }
  const where = last.window ? " This click looked at a window around the object, which is encoded once as well." : "";
  get("time-note").textContent = encodeNote(image) + where;
}

function encodeNote(image) {
  const stages = image?.encode.stages.encode;
  if (image?.encode.cached) return "The image was encoded before. A click only runs the small decoder.";
  if (stages) return `The image was encoded once, in ${formatMs(stages)}. A click only runs the small decoder.`;
  return "The image is encoded once. A click only runs the small decoder.";
}
