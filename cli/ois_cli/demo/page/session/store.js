// What a reload must not lose, in the browser's own database: the image file, and the session's
// snapshot. Each tab has a name of its own, so that two tabs never share.

const DATABASE = "ois-demo";
const TABLE = "tabs";
const DAYS = 3;

/** A keeper for this tab; one that keeps nothing where the browser refuses (private windows). */
export async function openStore() {
  try {
    const database = await open();
    const before = sessionStorage.getItem(TABLE);
    // A duplicated tab comes with the name of the first: whoever cannot hold it takes another.
    const name = before && (await hold(before)) ? before : crypto.randomUUID();
    if (name !== before) await hold(name);
    sessionStorage.setItem(TABLE, name);
    await forgetOld(database);
    return keeper(database, name, before);
  } catch {
    return { load: async () => null, saveImage() {}, saveSnapshot() {} };
  }
}

function keeper(database, name, before) {
  const put = (what, value) =>
    table(database, "readwrite").put({ ...value, saved: Date.now() }, `${name}/${what}`);
  return {
    /** {file, name, snapshot}, or null. */
    async load() {
      const image = before && (await done(table(database).get(`${before}/image`)));
      if (!image) return null;
      const kept = await done(table(database).get(`${before}/snapshot`));
      return { ...image, snapshot: kept?.snapshot };
    },
    saveImage: (file, fileName) => put("image", { file, name: fileName }),
    saveSnapshot: (snapshot) => put("snapshot", { snapshot }),
  };
}

/** Hold a name while this tab lives; false when another tab has it. */
function hold(name) {
  return new Promise((resolve) => {
    navigator.locks.request(`${DATABASE}/${name}`, { ifAvailable: true }, (lock) => {
      resolve(Boolean(lock));
      return lock && new Promise(() => {});
    });
  });
}

async function forgetOld(database) {
  const oldest = Date.now() - DAYS * 24 * 3600 * 1000;
  const cursors = table(database, "readwrite").openCursor();
  await new Promise((resolve, reject) => {
    cursors.onerror = () => reject(cursors.error);
    cursors.onsuccess = () => {
      const cursor = cursors.result;
      if (!cursor) return resolve();
      if (cursor.value.saved < oldest) cursor.delete();
      cursor.continue();
    };
  });
}

const table = (database, mode = "readonly") => database.transaction(TABLE, mode).objectStore(TABLE);

function open() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(TABLE);
  return done(request);
}

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
