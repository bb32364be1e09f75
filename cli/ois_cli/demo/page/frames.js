// A frame: one JSON head and named binary parts in one body (see gateway_frames.py).

const PREFIX = 4;

/** parts: {name: Uint8Array or Blob}. */
export function writeFrame(head, parts) {
  const listed = Object.entries(parts).map(([name, part]) => [name, part.size ?? part.byteLength]);
  const text = new TextEncoder().encode(JSON.stringify({ ...head, parts: listed }));
  const prefix = new DataView(new ArrayBuffer(PREFIX));
  prefix.setUint32(0, text.byteLength);
  return new Blob([prefix.buffer, text, ...Object.values(parts)]);
}

/** buffer: ArrayBuffer -> {head, parts: {name: Uint8Array}}; the parts are views of it. */
export function readFrame(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, PREFIX, length)));
  const parts = {};
  let at = PREFIX + length;
  for (const [name, size] of head.parts) {
    parts[name] = new Uint8Array(buffer, at, size);
    at += size;
  }
  delete head.parts;
  return { head, parts };
}
