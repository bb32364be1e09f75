// Saves files: the page sends its masks, and the gateway makes the file.

import * as api from "../session/api.js";
import { make } from "./dom.js";

const SUFFIX = { mask: "-mask.png", coco: "-coco.json", cutout: "-cutout.png" };

/** Save all visible objects with a mask. Returns the file name; throws if there is no mask. */
export async function save(kind, session, hidden) {
  const objects = session.doc.objects.filter(({ id, mask }) => mask && !hidden.has(id));
  if (!objects.length) throw new Error("There is no mask to save. Click on an object first");
  const file = await api.result(
    kind,
    session.image.name,
    objects.map(({ name }) => name),
    objects.map(({ mask }) => mask.full),
    kind === "cutout" ? session.image.file : null,
  );
  const link = make("a", { href: URL.createObjectURL(file), download: fileName(session.image.name, kind) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return link.download;
}

const fileName = (name, kind) => name.replace(/\.[^.]*$/, "") + SUFFIX[kind];
