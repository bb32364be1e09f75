// Requests to the gateway. Every failure is an ApiError with one of the toolkit's codes.

const TYPE = "application/octet-stream";
const GONE =
  "The demo does not answer; its program may have ended. Start it again with “ois demo”, and this page continues";

/** Codes of temporary errors: the same request may succeed later. */
const TEMPORARY = new Set(["GATEWAY_GONE", "SERVER_UNAVAILABLE", "SERVER_OVERLOADED", "DEADLINE_EXCEEDED"]);

export class ApiError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }

  get temporary() {
    return TEMPORARY.has(this.code);
  }
}

/** Facts about the network, limits and samples. */
export async function info() {
  return (await request("api/info")).json();
}

/** A sample photograph as a file. */
export async function sample(name) {
  return (await request(`samples/${encodeURIComponent(name)}`)).blob();
}

/**
 * One click (see gateway/clicks.py) -> {head, parts}. coverage: Uint8Array or null. mask: Blob, to
 * zoom, or null.
 */
export async function click(head, coverage, signal, mask = null) {
  const body = writeFrame(head, { ...(coverage && { coverage }), ...(mask && { mask }) });
  return readFrame(await (await post("api/clicks", body, signal)).arrayBuffer());
}

/** A stroke on a mask (see gateway/editing.py) -> {head, parts}. mask: Blob or null. */
export async function edit(head, mask, signal) {
  const body = writeFrame(head, mask ? { mask } : {});
  return readFrame(await (await post("api/edits", body, signal)).arrayBuffer());
}

/** The masks in a file for an image {name, width, height} -> {head, parts}. */
export async function masksOf(file, { name, width, height }) {
  const body = writeFrame({ name, width, height }, { file });
  return readFrame(await (await post("api/masks", body)).arrayBuffer());
}

/** What the last click attends to (see gateway/attention.py) -> {head, parts}. */
export async function attention(clicks, image, coverage, signal) {
  const parts = coverage ? { image, coverage } : { image };
  const listed = clicks.map(({ x, y, positive }) => [x, y, positive]);
  return readFrame(await (await post("api/attention", writeFrame({ clicks: listed }, parts), signal)).arrayBuffer());
}

/** An image of the folder of `ois demo FOLDER`. */
export async function listed(number) {
  return (await request(`folder/${number}`)).blob();
}

/**
 * kind: "mask", "coco" or "cutout" -> a file to save. objects: [{name, label, mask}] with masks as
 * Blobs. image: for a cut-out only.
 */
export async function result(kind, name, classes, objects, image) {
  const parts = Object.fromEntries(objects.map(({ mask }, index) => [`mask${index}`, mask]));
  if (image) parts.image = image;
  const head = { kind, name, classes, objects: objects.map(named) };
  return (await post("api/results", writeFrame(head, parts))).blob();
}

/** images: [{name, width, height, objects: [{name, label, mask}]}] -> a zip file. */
export async function archive(classes, images) {
  const parts = {};
  images.forEach(({ objects }, i) => objects.forEach(({ mask }, k) => (parts[`m${i}.${k}`] = mask)));
  const listed = images.map((image) => ({ ...image, objects: image.objects.map(named) }));
  return (await post("api/archives", writeFrame({ classes, images: listed }, parts))).blob();
}

const named = ({ name, label }) => ({ name, label });

/**
 * Send an image file -> {head, parts: {picture}}. onSent(share): progress of sending, 0 to 1.
 * With picture = false, the response has no picture: the image is only encoded again.
 * XMLHttpRequest, because fetch does not report the progress of an upload.
 */
export function openImage(file, { picture = true, onSent = () => {}, signal } = {}) {
  return new Promise((resolve, reject) => {
    const upload = new XMLHttpRequest();
    upload.open("POST", picture ? "api/images" : "api/images?picture=no");
    upload.setRequestHeader("content-type", TYPE);
    upload.responseType = "arraybuffer";
    upload.upload.onprogress = (event) => event.total && onSent(event.loaded / event.total);
    upload.upload.onload = () => onSent(1);
    upload.onerror = () => reject(new ApiError("GATEWAY_GONE", GONE));
    upload.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    upload.onload = () => {
      if (upload.status === 200) resolve(readFrame(upload.response));
      else reject(errorOf(new TextDecoder().decode(upload.response), upload.status));
    };
    signal?.addEventListener("abort", () => upload.abort());
    upload.send(file);
  });
}

function post(path, body, signal) {
  return request(path, { method: "POST", headers: { "content-type": TYPE }, body, signal });
}

async function request(path, options) {
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
    return new ApiError("INTERNAL", `The demo answered with status ${status}; its terminal shows the details`);
  }
}

// -- frames: a JSON head and named binary parts in one body (see gateway/frames.py) ----------

const PREFIX = 4;

/** head, parts: {name: Uint8Array or Blob} -> Blob. */
export function writeFrame(head, parts) {
  const listed = Object.entries(parts).map(([name, part]) => [name, part.size ?? part.byteLength]);
  const text = new TextEncoder().encode(JSON.stringify({ ...head, parts: listed }));
  const prefix = new DataView(new ArrayBuffer(PREFIX));
  prefix.setUint32(0, text.byteLength);
  return new Blob([prefix.buffer, text, ...Object.values(parts)]);
}

/** buffer: ArrayBuffer -> {head, parts: {name: Uint8Array}}; the parts are views of the buffer. */
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
