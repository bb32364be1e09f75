// The functions of the page that need no browser: frames, history, objects, view, timing, masks.

import assert from "node:assert/strict";
import test from "node:test";

const page = (name) => import(`../../../../cli/ois_cli/demo/page/${name}.js`);
const { readFrame, writeFrame } = await page("session/api");
const history = await page("session/document");
const objects = await page("session/document");
const views = await page("canvas/view");
const timing = await page("session/timing");
const { bounds, outline, visiblePatches } = await page("canvas/mask_geometry");
const { clicksOfBox, clicksOfLine, thinned } = await page("session/prompts");

test("a frame of bytes and blobs is read as it was written", async () => {
  const parts = { a: new Uint8Array([1, 2, 3]), b: new Blob(["hé"]), none: new Uint8Array() };
  const read = readFrame(await writeFrame({ name: "Ω", list: [1] }, parts).arrayBuffer());
  assert.deepEqual(read.head, { name: "Ω", list: [1] });
  assert.deepEqual([...read.parts.a], [1, 2, 3]);
  assert.equal(new TextDecoder().decode(read.parts.b), "hé");
  assert.equal(read.parts.none.length, 0);
});

test("undo and redo move through states; a new state drops the undone ones", () => {
  let h = history.begin("a");
  h = history.push(history.push(h, "b"), "c");
  assert.equal(history.undo(h).now, "b");
  assert.equal(history.redo(history.undo(h)).now, "c");
  h = history.push(history.undo(history.undo(h)), "d");
  assert.deepEqual(h, { past: ["a"], now: "d", future: [] });
  assert.deepEqual(history.redo(h), h);
  assert.equal(history.undo(history.undo(history.undo(h))).now, "a");
  assert.equal(history.undo(history.replace(h, "e")).now, "a");
});

test("there is always an active object, and numbers are not reused", () => {
  let doc = objects.empty();
  assert.equal(objects.withNew(doc), doc, "an object without clicks is reused");
  doc = objects.withChanged(doc, 1, { clicks: [{ x: 1, y: 1, positive: true }] });
  doc = objects.withNew(doc);
  assert.deepEqual([doc.active, doc.objects.length], [2, 2]);
  assert.equal(objects.without(doc, 2).active, 1);
  assert.equal(objects.without(objects.withActive(doc, 1), 1).active, 2);
  const last = objects.without(objects.without(doc, 1), 2);
  assert.deepEqual(last.objects.map(({ id, name }) => [id, name]), [[3, "Object 3"]]);
  assert.equal(objects.withActive(doc, 9), doc);
});

const image = { width: 400, height: 200 };
const box = { width: 832, height: 700 };

test("a fitted image is completely visible and centred", () => {
  const view = views.fit(image, box);
  assert.deepEqual(view, { scale: 2, x: 16, y: 150 });
});

test("zooming keeps the pixel under the pointer, and is limited", () => {
  const point = { x: 300, y: 310 };
  let view = views.fit(image, box);
  const before = views.toImage(view, point);
  view = views.zoomAt(view, 1.7, point, image, box);
  const after = views.toImage(view, point);
  assert.ok(Math.abs(before.x - after.x) < 1e-9 && Math.abs(before.y - after.y) < 1e-9);
  for (let k = 0; k < 50; k++) view = views.zoomAt(view, 2, point, image, box);
  assert.equal(view.scale, 32);
  for (let k = 0; k < 50; k++) view = views.zoomAt(view, 0.5, point, image, box);
  assert.equal(view.scale, 0.5);
});

test("an image cannot be moved out of the window", () => {
  const view = views.panBy(views.fit(image, box), 1e6, -1e6, image, box);
  assert.deepEqual([view.x, view.y], [box.width - 64, 64 - 400]);
});

test("a click is relative to pixel centres and inside the image", () => {
  const view = { scale: 2, x: 10, y: 20 };
  assert.deepEqual(views.toClick(view, { x: 10 + 2 * 7.5, y: 20 + 2 * 3.5 }, image), { x: 7, y: 3 });
  assert.deepEqual(views.toClick(view, { x: 10, y: 20 }, image), { x: 0, y: 0 });
  assert.deepEqual(views.toClick(view, { x: 810, y: 420 }, image), { x: 399, y: 199 });
  assert.equal(views.toClick(view, { x: 9, y: 20 }, image), null);
});

test("the parts of a click's time add up to the round trip", () => {
  const stages = { queue: 1, decode: 20, postprocess: 3, encode_mask: 1, total: 25 };
  const found = timing.parts(40, 32, stages);
  assert.deepEqual(found, { network: 8, gateway: 7, queue: 1, engine: 20, mask: 4 });
  assert.equal(Object.values(found).reduce((a, b) => a + b), 40);
  assert.deepEqual([timing.median([3, 1, 2]), timing.median([4, 1, 2, 3])], [2, 2.5]);
  assert.deepEqual([0.42, 31.7, 2400].map(timing.formatMs), ["0.4 ms", "32 ms", "2.4 s"]);
});

test("the outline of a mask includes the edges of holes", () => {
  const ring = Uint8Array.from([0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1, 1, 1, 0]);
  const pieces = outline(ring, 5, 4);
  let length = 0;
  for (let k = 0; k < pieces.length; k += 4) {
    length += pieces[k + 2] - pieces[k] + pieces[k + 3] - pieces[k + 1];
  }
  assert.equal(length, 12 + 4);
  assert.deepEqual(bounds(ring, 5, 4), [1, 1, 4, 4]);
  assert.deepEqual(outline(new Uint8Array(20), 5, 4), []);
  assert.equal(bounds(new Uint8Array(20), 5, 4), null);
  assert.equal(outline(new Uint8Array(20).fill(1), 5, 4).length, 16);
});

test("patches on the border of the mask belong to both signs", () => {
  const coverage = Uint8Array.from([0, 100, 255]);
  assert.deepEqual([...visiblePatches(coverage, true, [1, 3])], [0, 1, 1]);
  assert.deepEqual([...visiblePatches(coverage, false, [1, 3])], [1, 1, 0]);
  assert.deepEqual([...visiblePatches(null, true, [1, 3])], [1, 1, 1]);
  assert.deepEqual([...visiblePatches(new Uint8Array(3), true, [1, 3])], [1, 1, 1]);
  const fine = Uint8Array.from([0, 0, 9, 255, 0, 0, 255, 255]); // 1 x 2 patches of 2 x 2 cells
  assert.deepEqual([...visiblePatches(fine, true, [1, 2])], [0, 1]);
  assert.deepEqual([...visiblePatches(fine, false, [1, 2])], [1, 1]);
});

const place = ({ x, y, positive }) => [x, y, positive];

test("a box is a click on its centre and removing clicks outside its corners", () => {
  const clicks = clicksOfBox({ x0: 140, y0: 120, x1: 40, y1: 20 }, image);
  assert.deepEqual(clicks.map(place), [
    [90, 70, true], [35, 15, false], [145, 15, false], [35, 125, false], [145, 125, false],
  ]);
  const atEdge = clicksOfBox({ x0: 0, y0: 0, x1: 20, y1: 10 }, image);
  assert.deepEqual(atEdge.map(place), [[10, 5, true], [22, 12, false]]);
});

test("a line is clicks in equal steps, as many as its length and the free slots allow", () => {
  const line = [{ x: 0, y: 0 }, { x: 30, y: 0 }, { x: 30, y: 30 }];
  const clicks = clicksOfLine(line, true, image, 24); // at most 400 / 16 = 25 pixels apart
  assert.deepEqual(clicks.map(place), [[0, 0, true], [20, 0, true], [30, 10, true], [30, 30, true]]);
  assert.equal(clicksOfLine([{ x: 0, y: 0 }, { x: 399, y: 0 }], false, image, 24).length, 6);
  assert.deepEqual(clicksOfLine(line, false, image, 1).map(place), [[30, 0, false]]);
  assert.equal(clicksOfLine(line, true, image, 0).length, 1, "the engines say what is wrong");
  assert.deepEqual(clicksOfLine([{ x: 4, y: 5 }], true, image, 24).map(place), [[4, 5, true]]);
});

test("points of a stroke that are close together are left out, the last one stays", () => {
  const points = [0, 1, 2, 5, 6].map((x) => ({ x, y: 0 }));
  assert.deepEqual(thinned(points, 3).map(({ x }) => x), [0, 5, 6]);
  assert.deepEqual(thinned([points[0]], 3), [points[0]]);
});

test("loaded masks take the place of an empty object; edited objects are not empty", () => {
  const mask = { area: 5 };
  const doc = objects.withMasks(objects.empty(), [{ name: "", label: "cat", mask }, { name: "a lamp", label: "", mask }]);
  assert.deepEqual(doc.objects.map(({ id, name, label }) => [id, name, label]), [[1, "Object 1", "cat"], [2, "a lamp", ""]]);
  assert.deepEqual([doc.active, doc.next], [1, 3]);
  assert.equal(objects.withNew(doc).active, 3, "an object with a mask and no click is kept");
  assert.equal(objects.withMasks(doc, [{ name: "", label: "", mask }]).objects.length, 3);
});
