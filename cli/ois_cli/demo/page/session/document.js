// The objects of one image, as an immutable document: {objects, active, next}; and their history.
//
// object: {id, name, label, clicks: [{x, y, positive}], mask}. Clicks are in pixels of the image.
// label: its class, "" if it has none. mask: the result of the last click or edit, see maskOf in
// session.js; null before the first one.

const named = (id) => ({ id, name: `Object ${id}`, label: "", clicks: [], mask: null });

export const empty = () => ({ objects: [named(1)], active: 1, next: 2 });

export const find = (doc, id) => doc.objects.find((object) => object.id === id);

export const activeObject = (doc) => find(doc, doc.active);

/** Add an object and make it active, unless the active object is still empty. */
export function withNew(doc) {
  if (isEmpty(activeObject(doc))) return doc;
  return { objects: [...doc.objects, named(doc.next)], active: doc.next, next: doc.next + 1 };
}

/** Add objects with masks, [{name, label, mask}]; the first takes the place of an empty active one. */
export function withMasks(doc, found) {
  const reuse = isEmpty(activeObject(doc));
  const kept = doc.objects.filter(({ id }) => !reuse || id !== doc.active);
  const free = reuse ? doc.next - 1 : doc.next;
  const added = found.map(({ name, label, mask }, k) => {
    const id = reuse && k === 0 ? doc.active : free + k;
    return { ...named(id), mask, label, ...(name ? { name } : {}) };
  });
  return { objects: [...kept, ...added], active: added[0].id, next: free + found.length };
}

const isEmpty = (object) => !object.clicks.length && !object.mask;

export const withActive = (doc, id) => (find(doc, id) ? { ...doc, active: id } : doc);

/** Remove an object. The next (or previous) one becomes active; there is always one object. */
export function without(doc, id) {
  const at = doc.objects.findIndex((object) => object.id === id);
  const objects = doc.objects.filter((object) => object.id !== id);
  if (!objects.length) return { objects: [named(doc.next)], active: doc.next, next: doc.next + 1 };
  const active = doc.active === id ? objects[Math.min(at, objects.length - 1)].id : doc.active;
  return { ...doc, objects, active };
}

/** Replace fields of one object. */
export const withChanged = (doc, id, fields) => ({
  ...doc,
  objects: doc.objects.map((object) => (object.id === id ? { ...object, ...fields } : object)),
});

// -- undo and redo: {past, now, future} over documents

export const begin = (state) => ({ past: [], now: state, future: [] });

/** A new state; undone states are dropped. */
export const push = (history, state) => ({ past: [...history.past, history.now], now: state, future: [] });

/** Replace the current state without an undo step. */
export const replace = (history, state) => ({ ...history, now: state });

export function undo({ past, now, future }) {
  if (!past.length) return { past, now, future };
  return { past: past.slice(0, -1), now: past.at(-1), future: [now, ...future] };
}

export function redo({ past, now, future }) {
  if (!future.length) return { past, now, future };
  return { past: [...past, now], now: future[0], future: future.slice(1) };
}
