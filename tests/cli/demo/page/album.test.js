// The list of images keeps the work on each of them.

import assert from "node:assert/strict";
import test from "node:test";

const { Album } = await import("../../../../cli/ois_cli/demo/page/session/album.js");

function memory() {
  const kept = new Map();
  return {
    kept,
    load: async (key) => kept.get(key) ?? null,
    save: (key, value) => kept.set(key, structuredClone(value)),
    remove: (key) => kept.delete(key),
  };
}

const FOLDER = { name: "photos", files: ["a.jpg", "b.jpg", "c.jpg"] };
const SIZE = { width: 20, height: 10 };

function album(store) {
  return new Album(store, FOLDER, ["cat"], async (number) => `file ${number}`);
}

test("a folder's images come first, and opened files after them, each once", async () => {
  const list = album(memory());
  const file = { size: 7 };
  const added = list.add(file, "other.jpg");
  assert.equal(list.add({ size: 7 }, "other.jpg"), added);
  assert.deepEqual(list.entries.map(({ name }) => name), ["a.jpg", "b.jpg", "c.jpg", "other.jpg"]);
  assert.equal(await list.file(list.entries[1]), "file 1");
  assert.deepEqual(await list.file(added), file);
});

test("done images are counted and passed over", () => {
  const list = album(memory());
  const [a, b, c] = list.entries;
  list.setCurrent(a);
  list.setDone(b.key, true);
  assert.equal(list.nextOpen, c);
  list.setCurrent(c);
  assert.equal(list.nextOpen, a);
  assert.equal(list.neighbour(1), null);
  list.setDone(a.key, true);
  assert.equal(list.nextOpen, null, "only the current one is open");
  assert.equal(list.done, 2);
});

test("after a reload, everything is there again", async () => {
  const store = memory();
  const list = album(store);
  list.setCurrent(list.add({ size: 7 }, "other.jpg"));
  list.saveWork({ history: "work" }, 2, SIZE);
  list.setDone(list.current, true);
  list.setClasses(["cat", "dog"]);
  const again = album(store);
  await again.restore();
  assert.equal(again.entry.name, "other.jpg");
  assert.deepEqual(again.progress[again.current], { objects: 2, done: true, ...SIZE });
  assert.deepEqual(await again.work(again.entry), { history: "work" });
  assert.deepEqual(again.classes, ["cat", "dog"]);
  again.setCurrent(again.entries[0]);
  again.remove("file/1");
  assert.deepEqual([...store.kept.keys()], ["state"]);
});

test("an image that is no longer in the folder is not current after a reload", async () => {
  const store = memory();
  const list = album(store);
  list.setCurrent(list.entries[2]);
  const smaller = new Album(store, { name: "photos", files: ["a.jpg"] }, [], null);
  await smaller.restore();
  assert.equal(smaller.entry, null);
});

test("an image that cannot be opened is passed over, and one that is being opened counts", () => {
  const list = album(memory());
  const [a, b, c] = list.entries;
  list.setCurrent(a);
  list.begin(b);
  assert.equal(list.neighbour(1), c, "pressing the key twice goes on, without waiting");
  list.end(b, true);
  assert.equal(list.selected, a.key);
  assert.equal(list.neighbour(1), c);
  list.setCurrent(c);
  assert.equal(list.neighbour(-1), a);
  assert.equal(list.nextOpen, a);
  list.setCurrent(b);
  assert.equal(list.progress[b.key].failed, undefined);
});
