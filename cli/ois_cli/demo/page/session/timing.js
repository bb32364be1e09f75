// Where the time of a click went, as parts that add up to the round trip. All in milliseconds.

export const PARTS = [
  ["network", "browser and network"],
  ["gateway", "gateway and server"],
  ["queue", "waiting in line"],
  ["engine", "engine"],
  ["mask", "mask at full size"],
];

/**
 * roundTrip: from sending to having the answer; gateway: inside the gateway, the server included;
 * stages: the server's own, by name -> {network, gateway, queue, engine, mask}.
 */
export function parts(roundTrip, gateway, stages) {
  const sum = (...names) => names.reduce((total, name) => total + (stages[name] ?? 0), 0);
  const queue = sum("queue");
  const engine = sum("decode");
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
export function inWords(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
