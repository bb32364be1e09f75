// A session keeps the user's clicks when requests to the engines fail.

import assert from "node:assert/strict";
import test from "node:test";

const page = (name) => import(`../../../../cli/ois_cli/demo/page/${name}.js`);
const { Session } = await page("session/session");
const { ApiError } = await page("session/api");
const { Latest } = await page("session/latest");

const MODEL = "m".repeat(64);

/** Answers like the gateway. faults: codes to throw first, one per click; null: no fault. */
function gateway(faults = []) {
  const requests = [];
  let opened = 0;
  return {
    requests,
    get opened() {
      return opened;
    },
    model: MODEL,
    async openImage() {
      opened += 1;
      return {
        head: { digest: "d", width: 20, height: 10, cached: false, timings_ms: { encode: 5 }, model_sha256: this.model, notes: [] },
        parts: { picture: new Uint8Array() },
      };
    },
    edits: [],
    async edit(head, mask) {
      this.edits.push({ ...head, mask });
      const parts = { shown: new Uint8Array([9]), mask: new Uint8Array([9]), coverage: new Uint8Array([9]) };
      return { head: { area_px: 9, grid: [1, 1], model_sha256: this.model }, parts };
    },
    async click(head, coverage, signal, mask = null) {
      requests.push({ ...head, coverage: coverage && [...coverage], mask });
      const fault = faults.shift();
      if (fault instanceof Promise) await fault;
      else if (fault) throw new ApiError(fault, `trouble ${fault}`);
      signal?.throwIfAborted();
      const count = head.clicks.length;
      const parts = { shown: new Uint8Array([count]), coverage: new Uint8Array([count]) };
      for (const want of head.want) parts[want === "order" ? "order0" : want] = new Uint8Array([count]);
      const maps = { positive: true, negative: 0 };
      const window = mask ? [0, 0, count, count] : null;
      return { head: { area_px: count, grid: [1, 1], maps, gateway_ms: 1, timings_ms: {}, window }, parts };
    },
  };
}

async function opened(api) {
  const pauses = [];
  const session = new Session(api, async (ms) => pauses.push(ms));
  await session.open(new Blob(["x"]), "x.jpg");
  return { session, pauses };
}

const clicksOf = (session) => session.active.clicks.map(({ x, y, positive }) => [x, y, positive]);

test("every click sends all clicks before it and the coverage of their mask", async () => {
  const api = gateway();
  const { session } = await opened(api);
  session.click({ x: 1, y: 2, positive: true });
  await session.click({ x: 3, y: 4, positive: false }); // while the first is being answered
  await new Promise(setImmediate);
  assert.deepEqual(api.requests.map(({ clicks, coverage }) => [clicks, coverage]), [
    [[[1, 2, true]], null],
    [[[1, 2, true], [3, 4, false]], [1]],
  ]);
  assert.equal(session.waiting.length, 0);
  assert.equal(session.times.length, 2);
});

test("from its fourth click on, an object's mask and window go along, unless zoom is off", async () => {
  const api = gateway();
  const { session } = await opened(api);
  session.zoomFrom = 4;
  for (let n = 0; n < 5; n++) await session.click({ x: n, y: 1, positive: true });
  assert.deepEqual(api.requests.map(({ mask }) => mask !== null), [false, false, false, true, true]);
  assert.deepEqual(api.requests.map(({ window }) => window), [null, null, null, null, [0, 0, 4, 4]]);
  assert.equal(api.requests[4].mask, session.history.past.at(-1).objects[0].mask.full);
  session.zoomFrom = 0;
  await session.click({ x: 9, y: 2, positive: true });
  assert.equal(api.requests.at(-1).mask, null);
});

test("a stroke keeps the window of the mask that it changes", async () => {
  const api = gateway();
  const { session } = await opened(api);
  session.zoomFrom = 2;
  for (let n = 0; n < 2; n++) await session.click({ x: n, y: 1, positive: true });
  await session.brush([{ x: 1, y: 1 }], 2, true);
  await session.click({ x: 3, y: 1, positive: true });
  assert.deepEqual(api.requests.at(-1).window, [0, 0, 2, 2]);
});

test("undo and redo send nothing, and the next click continues from there", async () => {
  const api = gateway();
  const { session } = await opened(api);
  await session.click({ x: 1, y: 1, positive: true });
  await session.click({ x: 2, y: 2, positive: true });
  session.undo();
  assert.deepEqual(clicksOf(session), [[1, 1, true]]);
  session.redo();
  assert.equal(clicksOf(session).length, 2);
  session.undo();
  await session.click({ x: 5, y: 5, positive: true });
  assert.deepEqual(api.requests.at(-1).coverage, [1]);
  assert.equal(api.requests.length, 3);
  assert.equal(session.canRedo, false);
});

test("an image that the server dropped is sent again once, and the click is repeated", async () => {
  const api = gateway(["UNKNOWN_IMAGE"]);
  const { session } = await opened(api);
  await session.click({ x: 1, y: 1, positive: true });
  assert.equal(api.opened, 2);
  assert.deepEqual(api.requests[0], api.requests[1]);
  assert.equal(clicksOf(session).length, 1);
  assert.equal(session.trouble, null);
});

test("an unavailable server is asked until it answers; clicks wait in order", async () => {
  const api = gateway(["SERVER_UNAVAILABLE", "GATEWAY_GONE", "SERVER_OVERLOADED", "UNKNOWN_IMAGE"]);
  const { session, pauses } = await opened(api);
  const troubles = [];
  session.addEventListener("trouble", () => troubles.push(session.trouble?.message ?? null));
  session.click({ x: 2, y: 2, positive: true });
  const done = session.click({ x: 1, y: 1, positive: true });
  assert.equal(session.waiting.length, 2);
  await done;
  while (session.waiting.length) await new Promise(setImmediate);
  assert.deepEqual(clicksOf(session), [[2, 2, true], [1, 1, true]]);
  assert.deepEqual(pauses, [500, 1000, 2000]);
  assert.equal(troubles.at(-1), null);
  assert.equal(troubles[0], "trouble SERVER_UNAVAILABLE");
});

test("only a click with a permanent error is dropped, and the error is shown", async () => {
  const api = gateway([null, "TOO_MANY_CLICKS"]);
  const { session } = await opened(api);
  await session.click({ x: 1, y: 1, positive: true });
  await session.click({ x: 2, y: 2, positive: true });
  assert.deepEqual(session.trouble, { code: "TOO_MANY_CLICKS", message: "trouble TOO_MANY_CLICKS", temporary: false });
  assert.deepEqual(clicksOf(session), [[1, 1, true]]);
  await session.click({ x: 3, y: 3, positive: true });
  assert.equal(session.trouble, null);
  assert.equal(clicksOf(session).length, 2);
});

test("undo cancels a click without a result", async () => {
  let answer;
  const api = gateway([new Promise((resolve) => (answer = resolve))]);
  const { session } = await opened(api);
  const done = session.click({ x: 1, y: 1, positive: true });
  session.undo();
  assert.equal(session.waiting.length, 0);
  answer();
  await done;
  assert.deepEqual(clicksOf(session), []);
  assert.equal(session.canUndo, false);
});

test("a coarse mask is shown until the full one is there, and nothing of it is kept", async () => {
  const api = gateway();
  const plain = api.click;
  let finish;
  api.click = async (head, coverage, signal) => {
    if (head.answer !== "coarse") await new Promise((resolve) => (finish = resolve));
    return plain.call(api, head, coverage, signal);
  };
  const { session, pauses } = await opened(api);
  session.progressive = true;
  const shown = [];
  session.addEventListener("coarse", () => shown.push(session.coarse));
  const done = session.click({ x: 1, y: 1, positive: true });
  while (!shown.length) await new Promise(setImmediate);
  assert.deepEqual(pauses, [50, 10]);
  assert.equal(shown[0].object, 1);
  assert.deepEqual(api.requests.map(({ answer, want }) => [answer, want]), [["coarse", []]]);
  assert.equal(session.active.mask, null);
  finish();
  await done;
  assert.equal(session.coarse, null);
  assert.equal(shown.length, 1);
  assert.equal(session.times.length, 1);
  assert.equal(api.requests.length, 2);
});

test("a coarse mask that comes late, or fails, or whose click was undone, is not shown", async () => {
  for (const fate of ["late", "fails", "undone"]) {
    const api = gateway();
    const plain = api.click;
    let finish;
    api.click = async (head, coverage, signal) => {
      const held = (fate === "undone") === (head.answer !== "coarse") && fate !== "fails";
      if (held) await new Promise((resolve) => (finish = resolve));
      if (fate === "fails" && head.answer === "coarse") throw new ApiError("INVALID_INPUT", "no coarse answers");
      return plain.call(api, head, coverage, signal);
    };
    const { session } = await opened(api);
    session.progressive = true;
    let shown = 0;
    session.addEventListener("coarse", () => (shown += Boolean(session.coarse)));
    const done = session.click({ x: 1, y: 1, positive: true });
    if (fate === "undone") {
      while (!session.coarse) await new Promise(setImmediate);
      session.undo();
      assert.equal(session.coarse, null);
      shown = 0;
      finish();
    }
    await done;
    if (fate === "late") finish();
    for (let k = 0; k < 5; k++) await new Promise(setImmediate);
    assert.deepEqual([shown, session.coarse, session.trouble], [0, null, null]);
    assert.equal(clicksOf(session).length, fate === "undone" ? 0 : 1);
  }
});

test("with another model at the same address, clicks fail and masks are kept", async () => {
  const api = gateway([null, "UNKNOWN_IMAGE"]);
  const { session } = await opened(api);
  await session.click({ x: 1, y: 1, positive: true });
  api.model = "other";
  await session.click({ x: 2, y: 2, positive: true });
  assert.match(session.trouble.message, /another model/);
  assert.equal(clicksOf(session).length, 1);
});

test("a snapshot restores everything, also waiting clicks", async () => {
  const api = gateway();
  const { session } = await opened(api);
  await session.click({ x: 1, y: 1, positive: true });
  session.newObject();
  await session.click({ x: 2, y: 2, positive: true });
  session.undo();
  const kept = { ...session.snapshot(), waiting: [{ object: 2, clicks: [{ x: 7, y: 7, positive: true }] }] };
  const again = new Session(gateway());
  await again.open(new Blob(["x"]), "x.jpg", { kept });
  while (again.waiting.length) await new Promise(setImmediate);
  assert.deepEqual(again.doc.objects.map(({ clicks }) => clicks.length), [1, 1]);
  assert.deepEqual(clicksOf(again), [[7, 7, true]]);
});

test("depth and order maps are requested only if they are missing", async () => {
  const api = gateway();
  const { session } = await opened(api);
  await session.loadMaps();
  assert.deepEqual(api.requests[0].clicks, [[9.5, 4.5, true]]);
  assert.equal(session.depth.size, 1);
  await session.loadMaps();
  assert.equal(api.requests.length, 1);
  await session.click({ x: 1, y: 1, positive: true });
  await session.loadMaps();
  assert.deepEqual(api.requests[2].want, ["depth", "order"]);
  assert.equal(session.active.mask.orders.length, 1);
  session.wantsMaps = true;
  await session.click({ x: 2, y: 2, positive: true });
  await session.loadMaps();
  assert.equal(api.requests.length, 4);
  assert.deepEqual(api.requests[3].want, ["mask", "order"]);
});

test("previews run one at a time, the newest next, and slow ones are cancelled", async () => {
  const runs = [];
  const latest = new Latest((input, signal) => {
    const run = { input, signal };
    runs.push(run);
    return new Promise((resolve, reject) => {
      run.resolve = resolve;
      signal.addEventListener("abort", () => reject(signal.reason));
    });
  }, 30);
  latest.request(1);
  latest.request(2);
  latest.request(3);
  assert.equal(runs.length, 1);
  runs[0].resolve();
  await new Promise(setImmediate);
  assert.deepEqual(runs.map(({ input }) => input), [1, 3]);
  await new Promise((resolve) => setTimeout(resolve, 40));
  latest.request(4); // 3 took too long
  await new Promise(setImmediate);
  assert.ok(runs[1].signal.aborted);
  assert.equal(runs[2].input, 4);
  latest.request(5);
  latest.stop();
  await new Promise(setImmediate);
  assert.equal(runs.length, 3);
});

const STROKE = [[{ x: 1, y: 1 }, { x: 5, y: 1 }], 2, true];

test("several clicks at once are one request and one step", async () => {
  const api = gateway();
  const { session } = await opened(api);
  await session.click({ x: 5, y: 5, positive: true }, { x: 0, y: 0, positive: false });
  assert.deepEqual(api.requests.map(({ clicks }) => clicks), [[[5, 5, true], [0, 0, false]]]);
  assert.deepEqual([session.count(true), session.count(false)], [1, 1]);
  session.undo();
  assert.deepEqual(clicksOf(session), []);
});

test("a stroke edits the mask, and the next click gets the coverage of the edited mask", async () => {
  const api = gateway();
  const { session } = await opened(api);
  await session.click({ x: 5, y: 5, positive: true });
  const before = session.active.mask;
  session.brush(...STROKE);
  await session.click({ x: 6, y: 6, positive: true }); // while the stroke is being answered
  while (session.waiting.length) await new Promise(setImmediate);
  assert.deepEqual(api.edits, [{ width: 20, height: 10, points: [[1, 1], [5, 1]], radius: 2, paint: true, mask: before.full }]);
  assert.deepEqual(api.requests.at(-1).coverage, [9]);
  assert.equal(session.times.length, 2, "a stroke is no click");
  session.undo();
  assert.equal(session.active.mask.area, 9);
  session.undo();
  assert.equal(session.active.mask, before);
});

test("a mask of another model gets a new coverage before the next click", async () => {
  const api = gateway();
  const { session } = await opened(api);
  await session.click({ x: 5, y: 5, positive: true });
  const other = gateway();
  other.model = "n".repeat(64);
  const again = new Session(other);
  await again.open(new Blob(["x"]), "x.jpg", { kept: session.snapshot() });
  await again.click({ x: 6, y: 6, positive: true });
  assert.deepEqual(other.edits.map(({ points }) => points), [[]]);
  assert.deepEqual(other.requests.at(-1).coverage, [9]);
  await again.click({ x: 7, y: 7, positive: true });
  assert.equal(other.edits.length, 1);
});
