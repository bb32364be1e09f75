// A session keeps a person's clicks through everything that can go wrong between it and the engines.

import assert from "node:assert/strict";
import test from "node:test";

const page = (name) => import(`../../../../cli/ois_cli/demo/page/${name}.js`);
const { Session } = await page("session/session");
const { ApiError } = await page("session/api");
const { Latest } = await page("session/latest");

const MODEL = "m".repeat(64);

/** Answers like the gateway; `faults` are thrown first, one a click. */
function gateway(faults = []) {
  const asked = [];
  let opened = 0;
  return {
    asked,
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
    async click(question, coverage, signal) {
      asked.push({ ...question, coverage: coverage && [...coverage] });
      const fault = faults.shift();
      if (fault instanceof Promise) await fault;
      else if (fault) throw new ApiError(fault, `trouble ${fault}`);
      signal?.throwIfAborted();
      const count = question.clicks.length;
      const parts = { shown: new Uint8Array([count]), coverage: new Uint8Array([count]) };
      for (const want of question.want) parts[want === "order" ? "order0" : want] = new Uint8Array([count]);
      const maps = { positive: true, negative: 0 };
      return { head: { area_px: count, grid: [1, 1], maps, gateway_ms: 1, timings_ms: {} }, parts };
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

test("every click brings all clicks before it, and the coverage they made", async () => {
  const api = gateway();
  const { session } = await opened(api);
  session.click(1, 2, true);
  await session.click(3, 4, false); // while the first is under way
  await new Promise(setImmediate);
  assert.deepEqual(api.asked.map(({ clicks, coverage }) => [clicks, coverage]), [
    [[[1, 2, true]], null],
    [[[1, 2, true], [3, 4, false]], [1]],
  ]);
  assert.equal(session.waiting.length, 0);
  assert.equal(session.times.length, 2);
});

test("undo and redo need nobody, and the next click goes on from there", async () => {
  const api = gateway();
  const { session } = await opened(api);
  await session.click(1, 1, true);
  await session.click(2, 2, true);
  session.undo();
  assert.deepEqual(clicksOf(session), [[1, 1, true]]);
  session.redo();
  assert.equal(clicksOf(session).length, 2);
  session.undo();
  await session.click(5, 5, true);
  assert.deepEqual(api.asked.at(-1).coverage, [1]);
  assert.equal(api.asked.length, 3);
  assert.equal(session.canRedo, false);
});

test("an image that the server forgot is sent again, once, and the click repeated", async () => {
  const api = gateway(["UNKNOWN_IMAGE"]);
  const { session } = await opened(api);
  await session.click(1, 1, true);
  assert.equal(api.opened, 2);
  assert.deepEqual(api.asked[0], api.asked[1]);
  assert.equal(clicksOf(session).length, 1);
  assert.equal(session.trouble, null);
});

test("a server that is away is asked until it is back; clicks wait in order", async () => {
  const api = gateway(["SERVER_UNAVAILABLE", "GATEWAY_GONE", "SERVER_OVERLOADED", "UNKNOWN_IMAGE"]);
  const { session, pauses } = await opened(api);
  const troubles = [];
  session.addEventListener("trouble", () => troubles.push(session.trouble?.message ?? null));
  session.click(2, 2, true);
  const done = session.click(1, 1, true);
  assert.equal(session.waiting.length, 2);
  await done;
  while (session.waiting.length) await new Promise(setImmediate);
  assert.deepEqual(clicksOf(session), [[2, 2, true], [1, 1, true]]);
  assert.deepEqual(pauses, [500, 1000, 2000]);
  assert.equal(troubles.at(-1), null);
  assert.equal(troubles[0], "trouble SERVER_UNAVAILABLE");
});

test("a click that can never work is dropped, with what was said, and nothing else", async () => {
  const api = gateway([null, "TOO_MANY_CLICKS"]);
  const { session } = await opened(api);
  await session.click(1, 1, true);
  await session.click(2, 2, true);
  assert.deepEqual(session.trouble, { code: "TOO_MANY_CLICKS", message: "trouble TOO_MANY_CLICKS", passing: false });
  assert.deepEqual(clicksOf(session), [[1, 1, true]]);
  await session.click(3, 3, true);
  assert.equal(session.trouble, null);
  assert.equal(clicksOf(session).length, 2);
});

test("undo takes back a click that has not been answered", async () => {
  let answer;
  const api = gateway([new Promise((resolve) => (answer = resolve))]);
  const { session } = await opened(api);
  const done = session.click(1, 1, true);
  session.undo();
  assert.equal(session.waiting.length, 0);
  answer();
  await done;
  assert.deepEqual(clicksOf(session), []);
  assert.equal(session.canUndo, false);
});

test("another model behind the same address ends the clicking, not the masks", async () => {
  const api = gateway([null, "UNKNOWN_IMAGE"]);
  const { session } = await opened(api);
  await session.click(1, 1, true);
  api.model = "other";
  await session.click(2, 2, true);
  assert.match(session.trouble.message, /another model/);
  assert.equal(clicksOf(session).length, 1);
});

test("a snapshot brings everything back, clicks that wait too", async () => {
  const api = gateway();
  const { session } = await opened(api);
  await session.click(1, 1, true);
  session.newObject();
  await session.click(2, 2, true);
  session.undo();
  const kept = { ...session.snapshot(), waiting: [{ object: 2, x: 7, y: 7, positive: true }] };
  const again = new Session(gateway());
  await again.open(new Blob(["x"]), "x.jpg", { kept });
  while (again.waiting.length) await new Promise(setImmediate);
  assert.deepEqual(again.doc.objects.map(({ clicks }) => clicks.length), [1, 1]);
  assert.deepEqual(clicksOf(again), [[7, 7, true]]);
});

test("looking asks for depth and order maps only where they are not known", async () => {
  const api = gateway();
  const { session } = await opened(api);
  await session.look();
  assert.deepEqual(api.asked[0].clicks, [[9.5, 4.5, true]]);
  assert.equal(session.depth.size, 1);
  await session.look();
  assert.equal(api.asked.length, 1);
  await session.click(1, 1, true);
  await session.look();
  assert.deepEqual(api.asked[2].want, ["depth", "order"]);
  assert.equal(session.active.mask.orders.length, 1);
  session.curious = true;
  await session.click(2, 2, true);
  await session.look();
  assert.equal(api.asked.length, 4);
  assert.deepEqual(api.asked[3].want, ["mask", "order"]);
});

test("previews: one at a time, the newest next, slow ones given up", async () => {
  const runs = [];
  const latest = new Latest((wish, signal) => {
    const run = { wish, signal };
    runs.push(run);
    return new Promise((resolve, reject) => {
      run.resolve = resolve;
      signal.addEventListener("abort", () => reject(signal.reason));
    });
  }, 30);
  latest.want(1);
  latest.want(2);
  latest.want(3);
  assert.equal(runs.length, 1);
  runs[0].resolve();
  await new Promise(setImmediate);
  assert.deepEqual(runs.map(({ wish }) => wish), [1, 3]);
  await new Promise((resolve) => setTimeout(resolve, 40));
  latest.want(4); // 3 has taken too long
  await new Promise(setImmediate);
  assert.ok(runs[1].signal.aborted);
  assert.equal(runs[2].wish, 4);
  latest.want(5);
  latest.stop();
  await new Promise(setImmediate);
  assert.equal(runs.length, 3);
});
