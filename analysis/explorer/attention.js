"use strict";
// Exact attention: the weights of a query token over all tokens of the views shown, computed from its layer's queries
// and keys. The counterpart of analysis/explorer/exact.py, which says how these are packed.
const explorerAttention = (() => {
  /** Part the bytes of a block. size: views, heads, asked and askedColumns, tokens and columns of a view. */
  function parse(raw, size) {
    const { views, heads, asked, tokens } = size, pairs = heads * views * asked * (views - 1);
    const [r, judged, partial] = new Uint32Array(raw.slice(0, 12).buffer);
    let start = 12;
    const take = (length) => raw.slice(start, (start += length));
    const step = new Float32Array(take(4 * heads).buffer), off = words(take(2 * r * heads * views * (asked + tokens)));
    const { q, k } = undoResiduals(off, r, size);
    const moved = judged ? words(take(2 * pairs)) : null, right = judged ? take(pairs) : null;
    const within = partial ? new Float32Array(take(4 * heads * views * asked).buffer) : null;
    return { ...size, r, step, q, k, moved, right, within };
  }
  /** Numbers of two bytes: first all low bytes, then all high bytes. */
  function words(planes) {
    const count = planes.length / 2, values = new Uint16Array(count);
    for (let i = 0; i < count; i++) values[i] = planes[i] | (planes[count + i] << 8);
    return values;
  }
  /** Steps of queries and keys, each [heads][views * tokens][channels], from the differences to their neighbours. */
  function undoResiduals(off, r, { views, heads, asked, askedColumns, tokens, columns }) {
    const parts = [{ count: asked, wide: askedColumns }, { count: tokens, wide: columns }];
    for (const part of parts) part.steps = new Int16Array(heads * views * part.count * r);
    let from = 0;
    for (let channel = 0; channel < r; channel++) {
      for (const { count, wide, steps } of parts) {
        for (let row = 0; row < heads * views; row++) {
          for (let n = 0, at = row * count * r + channel; n < count; n++, at += r, from++) {
            const left = n % wide ? steps[at - r] : null, up = n >= wide ? steps[at - wide * r] : null;
            const expected = left === null ? up ?? 0 : up === null ? left : (left + up) >> 1;
            steps[at] = expected + ((off[from] >> 1) ^ -(off[from] & 1));
          }
        }
      }
    }
    return { q: parts[0].steps, k: parts[1].steps };
  }

  /** One head's products of a query token with the keys of all views, in whole steps, which are exact. */
  function products({ q, k, r, views, asked, tokens }, view, place, head, into) {
    const from = ((head * views + view) * asked + place) * r, all = views * tokens;
    for (let token = 0, at = head * all * r; token < all; token++, at += r) {
      let sum = 0;
      for (let i = 0; i < r; i++) sum += q[from + i] * k[at + i];
      into[token] = sum;
    }
  }
  const highest = (values, from, to) => {
    let best = from;
    for (let n = from + 1; n < to; n++) if (values[n] > values[best]) best = n;
    return best;
  };

  /**
   * Weights of a query token over the tokens of all views, of one head or the mean over all ("all"): the softmax over
   * all tokens the layer has, as the scores have it, so they sum to the share that falls on the views shown.
   */
  function weights(parts, view, place, head) {
    const { views, heads, asked, tokens, step, within } = parts, chosen = head === "all" ? [...Array(heads).keys()] : [head];
    const mean = new Float64Array(views * tokens), row = new Float64Array(mean.length);
    for (const one of chosen) {
      products(parts, view, place, one, row);
      const peak = row[highest(row, 0, row.length)], scale = step[one] ** 2;
      let sum = 0;
      for (let n = 0; n < row.length; n++) sum += row[n] = Math.exp((row[n] - peak) * scale);
      const share = (within ? within[(view * asked + place) * heads + one] : 1) / sum / chosen.length;
      for (let n = 0; n < row.length; n++) mean[n] += row[n] * share;
    }
    return mean;
  }

  /** One head's match in each other view, in order: the run's own, which is the highest product but where rounding moved it. */
  function matches(parts, view, place, head) {
    const { views, asked, tokens, moved } = parts, row = new Float64Array(views * tokens);
    products(parts, view, place, head, row);
    const others = [...Array(views).keys()].filter((other) => other !== view);
    return others.map((other, n) => {
      const run = moved ? moved[((head * views + view) * asked + place) * (views - 1) + n] : 0;
      return run ? run - 1 : highest(row, other * tokens, (other + 1) * tokens) - other * tokens;
    });
  }

  return { parse, weights, matches };
})();
