"use strict";
// Exact attention: the weights of a query token over all tokens of the views shown, from queries and keys in 8 bits.
const explorerAttention = (() => {
  /** Part the bytes of a block: the counterpart of pack_exact in analysis/explorer/packing.py. */
  function parse(raw, views, asked, tokens, heads) {
    const counts = { q: views * asked, k: views * tokens };
    const d = (raw.length / heads - 4 * (counts.q + counts.k)) / (counts.q + counts.k);
    const parts = { heads, d, views, asked, tokens };
    let start = 0;
    for (const name of ["q", "k"]) {
      const size = counts[name] * heads;
      parts[name] = new Int8Array(raw.buffer, raw.byteOffset + start, size * d);
      start += size * d;
      parts[`${name}_step`] = new Float32Array(raw.slice(start, start + size * 4).buffer);
      start += size * 4;
    }
    return parts;
  }

  /** One head's logits of a query token over the tokens of all views; returns the highest. */
  function logits(parts, query, head, into) {
    const { q, k, d, heads, q_step, k_step } = parts, from = (query * heads + head) * d;
    const own = q_step[query * heads + head];
    let highest = -Infinity;
    for (let token = 0; token < into.length; token++) {
      const at = (token * heads + head) * d;
      let dot = 0;
      for (let i = 0; i < d; i++) dot += q[from + i] * k[at + i];
      into[token] = dot * own * k_step[token * heads + head];
      if (into[token] > highest) highest = into[token];
    }
    return highest;
  }

  /** Weights over the tokens of all views, which sum to 1: of one head, or the mean over all ("all"). */
  function weights(parts, view, place, head) {
    const chosen = head === "all" ? Array.from({ length: parts.heads }, (_, n) => n) : [head];
    const mean = new Float64Array(parts.views * parts.tokens), row = new Float64Array(mean.length);
    for (const one of chosen) {
      const highest = logits(parts, view * parts.asked + place, one, row);
      let sum = 0;
      for (let n = 0; n < row.length; n++) sum += row[n] = Math.exp(row[n] - highest);
      for (let n = 0; n < row.length; n++) mean[n] += row[n] / sum / chosen.length;
    }
    return mean;
  }

  return { parse, weights };
})();
