// Undo and redo over immutable states: what was, what is, what was undone.

export const begin = (state) => ({ past: [], now: state, future: [] });

/** A new state; what had been undone is forgotten. */
export const push = (history, state) => ({ past: [...history.past, history.now], now: state, future: [] });

/** Another state in place of the current one, which undo does not know. */
export const replace = (history, state) => ({ ...history, now: state });

export function undo({ past, now, future }) {
  if (!past.length) return { past, now, future };
  return { past: past.slice(0, -1), now: past.at(-1), future: [now, ...future] };
}

export function redo({ past, now, future }) {
  if (!future.length) return { past, now, future };
  return { past: [...past, now], now: future[0], future: future.slice(1) };
}
