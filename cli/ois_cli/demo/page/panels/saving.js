// Saves files: the page sends its masks, and the gateway makes the file.

import * as api from "../session/api.js";
import { make } from "./dom.js";

const SUFFIX = { mask: "-mask.png", coco: "-coco.json", cutout: "-cutout.png" };

/** Save all visible objects with a mask. Returns the file name; throws if there is no mask. */
export async function save(kind, session, hidden, classes) {
  const objects = maskedOf(session.doc).filter(({ id }) => !hidden.has(id));
  if (!objects.length) throw new Error("There is no mask to save. Click on an object first");
  const { name, file } = session.image;
  const made = await api.result(kind, name, classes, objects, kind === "cutout" ? file : null);
  return download(made, stem(name) + SUFFIX[kind]);
}

/**
 * Save the masks of all images that have some or are done, as one zip file. Returns the file name;
 * throws if there are none. onRead(count): called with the number of images that were read.
 */
export async function saveAll(session, album, onRead) {
  const images = [];
  for (const entry of album.entries) {
    const facts = album.progress[entry.key];
    if (!facts?.width || (!facts.objects && !facts.done)) continue;
    const current = entry.key === album.current && session.image;
    const doc = current ? session.doc : (await album.work(entry))?.history.now;
    const { width, height } = facts;
    images.push({ name: entry.name, width, height, objects: doc ? maskedOf(doc) : [] });
    onRead(images.length);
  }
  if (!images.length) throw new Error("There is no mask to save. Click on an object first");
  return download(await api.archive(album.classes, images), `${album.folder || "images"}-masks.zip`);
}

/** The objects of a document that have a mask: [{id, name, label, mask: its PNG}]. */
const maskedOf = (doc) =>
  doc.objects.filter(({ mask }) => mask?.area).map(({ id, name, label, mask }) => ({ id, name, label, mask: mask.full }));

function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return name;
}

const stem = (name) => name.split("/").at(-1).replace(/\.[^.]*$/, "");
