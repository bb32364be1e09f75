// Keeps the image file and the session's snapshot in the browser's database, so that a reload does
// not lose them. Each tab has its own name, so that tabs do not share data.

const DATABASE = "ois-demo";
const TABLE = "tabs";
const DAYS = 3;

/** The store of this tab. It stores nothing if the browser refuses (private windows). */
export async function openStore() {
  try {
    const database = await open();
    const before = sessionStorage.getItem(TABLE);
    // A duplicated tab copies the name; the tab that cannot lock it takes a new one.
    const name = before && (await lock(before)) ? before : crypto.randomUUID();
    if (name !== before) await lock(name);
    sessionStorage.setItem(TABLE, name);
    await deleteOld(database);
    return storeOf(database, name, before);
  } catch {
    return { load: async () => null, saveImage() {}, saveSnapshot() {} };
  }
}

function storeOf(database, name, before) {
  const put = (key, value) =>
    table(database, "readwrite").put({ ...value, saved: Date.now() }, `${name}/${key}`);
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

/** Lock a name until this tab closes; false if another tab has it. */
function lock(name) {
  return new Promise((resolve) => {
    navigator.locks.request(`${DATABASE}/${name}`, { ifAvailable: true }, (granted) => {
      resolve(Boolean(granted));
      return granted && new Promise(() => {});
    });
  });
}

async function deleteOld(database) {
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
