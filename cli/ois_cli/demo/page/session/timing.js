// The parts of a click's round trip, in milliseconds.

export const PARTS = [
  ["network", "browser and network"],
  ["gateway", "gateway and server"],
  ["queue", "queue"],
  ["engine", "engine"],
  ["mask", "mask at full size"],
];

/**
 * roundTrip: from sending the request to having the response. gateway: time inside the gateway,
 * including the server. stages: the server's times by name. -> {network, gateway, queue, engine,
 * mask}, which add up to the round trip.
 */
export function parts(roundTrip, gateway, stages) {
  const sum = (...names) => names.reduce((total, name) => total + (stages[name] ?? 0), 0);
  const queue = sum("queue");
  const engine = sum("preprocess", "encode", "decode"); // a new window is encoded with its first click
  const mask = sum("postprocess", "encode_mask");
  return {
    network: Math.max(0, roundTrip - gateway),
    gateway: Math.max(0, Math.min(gateway, roundTrip) - queue - engine - mask),
    queue,
    engine,
    mask,
  };
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** 0.42 -> "0.4 ms", 31.7 -> "32 ms", 2400 -> "2.4 s". */
export function formatMs(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
