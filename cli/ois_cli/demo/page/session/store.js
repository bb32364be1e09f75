// Keeps image files, work and the list of images in the browser's database, so that a reload does
// not lose them. Tabs do not share data: each has its own name. A folder's data has the folder's
// name, so it is there again when the folder is opened again, in one tab at a time.

const DATABASE = "ois-demo";
const TABLE = "kept";
const DAY_MS = 24 * 3600 * 1000;
/** How long data is kept after the last change. */
const DAYS = { tab: 3, folder: 30 };

/**
 * The store of this tab, or of a folder. folder: its id, or null.
 * -> {load(key), save(key, value), remove(key), taken}. taken: whether another tab has the folder;
 * then the store is the tab's. It stores nothing if the browser refuses (private windows).
 */
export async function openStore(folder) {
  let taken = false;
  try {
    const database = await open();
    await deleteOld(database);
    if (folder) {
      if (await lock(`folder-${folder}`)) return storeOf(database, `folder-${folder}`, taken);
      taken = true;
    }
    const before = sessionStorage.getItem(DATABASE);
    // A duplicated tab copies the name; the tab that cannot lock it takes a new one.
    const name = before && (await lock(before)) ? before : `tab-${crypto.randomUUID()}`;
    if (name !== before) await lock(name);
    if (before && name !== before) await copy(database, before, name);
    sessionStorage.setItem(DATABASE, name);
    return storeOf(database, name, taken);
  } catch {
    return { load: async () => null, save() {}, remove() {}, taken };
  }
}

function storeOf(database, name, taken) {
  return {
    taken,
    load: async (key) => (await done(table(database).get(`${name}/${key}`)))?.value ?? null,
    save: (key, value) =>
      table(database, "readwrite").put({ value, saved: Date.now() }, `${name}/${key}`),
    remove: (key) => table(database, "readwrite").delete(`${name}/${key}`),
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

/** Delete the data of tabs and folders whose last change is too long ago. */
async function deleteOld(database) {
  const newest = new Map();
  const nameOf = (key) => key.split("/", 1)[0];
  await forEach(table(database).openCursor(), ({ key, value }) => {
    newest.set(nameOf(key), Math.max(newest.get(nameOf(key)) ?? 0, value.saved));
  });
  for (const [name, saved] of newest) {
    if (saved > Date.now() - DAYS[nameOf(name).split("-", 1)[0]] * DAY_MS) continue;
    table(database, "readwrite").delete(keysOf(name));
  }
}

async function copy(database, from, to) {
  const entries = [];
  await forEach(table(database).openCursor(keysOf(from)), ({ key, value }) => entries.push([key, value]));
  for (const [key, value] of entries) {
    table(database, "readwrite").put(value, to + key.slice(from.length));
  }
}

const keysOf = (name) => IDBKeyRange.bound(`${name}/`, `${name}/\uffff`);

function forEach(request, use) {
  return new Promise((resolve, reject) => {
    request.onerror = () => reject(request.error);
    request.onsuccess = () => {
      const cursor = request.result;
      if (!cursor) return resolve();
      use(cursor);
      cursor.continue();
    };
  });
}

const table = (database, mode = "readonly") => database.transaction(TABLE, mode).objectStore(TABLE);

function open() {
  const request = indexedDB.open(DATABASE, 2);
  request.onupgradeneeded = () => {
    const { result: database } = request;
    for (const name of [...database.objectStoreNames]) database.deleteObjectStore(name);
    database.createObjectStore(TABLE);
  };
  return done(request);
}

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
