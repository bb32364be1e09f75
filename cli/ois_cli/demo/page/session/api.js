// What the page asks of the gateway. Every failure is an ApiError with a code of the toolkit's own.

const TYPE = "application/octet-stream";
const GONE =
  "The demo does not answer: its program may have ended. Start it again with “ois demo”; this page goes on where it is";

/** Trouble that may pass by itself; the same request is worth sending again. */
const PASSING = new Set(["GATEWAY_GONE", "SERVER_UNAVAILABLE", "SERVER_OVERLOADED", "DEADLINE_EXCEEDED"]);

export class ApiError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }

  get passing() {
    return PASSING.has(this.code);
  }
}

/** The network, the limits, the samples. */
export async function info() {
  return (await ask("api/info")).json();
}

/** A sample photograph as a file. */
export async function sample(name) {
  return (await ask(`samples/${encodeURIComponent(name)}`)).blob();
}

/** One click (see gateway_clicks.py) -> {head, parts}. coverage: Uint8Array or null. */
export async function click(question, coverage, signal) {
  const body = writeFrame(question, coverage ? { coverage } : {});
  return readFrame(await (await post("api/clicks", body, signal)).arrayBuffer());
}

/** kind: "mask", "coco" or "cutout" -> a file to keep. masks: Blobs; image only for a cut-out. */
export async function result(kind, name, objects, masks, image) {
  const parts = Object.fromEntries(masks.map((mask, index) => [`mask${index}`, mask]));
  if (image) parts.image = image;
  return (await post("api/results", writeFrame({ kind, name, objects }, parts))).blob();
}

/**
 * Send an image file -> {head, parts: {picture}}. onSent(share) while it is on its way, 0 to 1.
 * With picture = false there is no picture in the answer: the engines only get the image again.
 * A plain fetch does not say how much of a body has been sent, hence XMLHttpRequest.
 */
export function openImage(file, { picture = true, onSent = () => {}, signal } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", picture ? "api/images" : "api/images?picture=no");
    request.setRequestHeader("content-type", TYPE);
    request.responseType = "arraybuffer";
    request.upload.onprogress = (event) => event.total && onSent(event.loaded / event.total);
    request.upload.onload = () => onSent(1);
    request.onerror = () => reject(new ApiError("GATEWAY_GONE", GONE));
    request.onabort = () => reject(new DOMException("given up", "AbortError"));
    request.onload = () => {
      if (request.status === 200) resolve(readFrame(request.response));
      else reject(errorOf(new TextDecoder().decode(request.response), request.status));
    };
    signal?.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

function post(path, body, signal) {
  return ask(path, { method: "POST", headers: { "content-type": TYPE }, body, signal });
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("GATEWAY_GONE", GONE);
  }
  if (!response.ok) throw errorOf(await response.text(), response.status);
  return response;
}

function errorOf(text, status) {
  try {
    const { code, message } = JSON.parse(text).error;
    return new ApiError(code, message);
  } catch {
    return new ApiError("INTERNAL", `The demo answered with status ${status}; its terminal says more`);
  }
}

// -- frames

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
