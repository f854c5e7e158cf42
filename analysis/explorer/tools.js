"use strict";
// What the explorer is made with, free of its state.
const explorerTools = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  // --- reading the packed data: the counterpart of analysis/explorer/packing.py -----------------------------------

  const inflate = async (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const floats = async (text) => new Float32Array((await inflate(text)).buffer);

  function unpack(raw, fields, lead, asked, others, cells) {
    const found = {};
    let start = 0;
    for (const [name, width, each] of fields) {
      const last = each || cells, size = lead * asked * others * last;
      const low = raw.subarray(start, start + size), value = width > 1 ? new Uint16Array(size) : low.slice();
      if (width > 1) for (let i = 0; i < size; i++) value[i] = low[i] + 256 * raw[start + size + i];
      if (!each) undoDifferences(value, asked, others * last);
      found[name] = value;
      start += size * width;
    }
    return found;
  }

  function undoDifferences(maps, asked, step) {
    for (let i = 0; i < maps.length; i++) if (Math.floor(i / step) % asked) maps[i] = (maps[i] + maps[i - step]) & 255;
  }

  // --- drawing ---------------------------------------------------------------------------------------------------------

  function element(name, attributes = {}, ...children) {
    const drawn = attributes.svg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (key !== "svg") drawn.setAttribute(key, value);
    drawn.append(...children);
    return drawn;
  }
  const mark = (name, attributes) => element(name, { svg: true, ...attributes });
  const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)}\u00a0%`;

  /** The part of a x + b y + c = 0 inside the image. */
  function clipped([a, b, c]) {
    const points = [];
    for (const edge of [0, 1]) {
      if (Math.abs(b) > 1e-12) points.push([edge, -(a * edge + c) / b]);
      if (Math.abs(a) > 1e-12) points.push([-(b * edge + c) / a, edge]);
    }
    const inside = points.filter(([x, y]) => x >= -1e-9 && x <= 1 + 1e-9 && y >= -1e-9 && y <= 1 + 1e-9);
    inside.sort(([x, y], [u, v]) => x - u || y - v);
    return inside.length > 1 ? [inside[0], inside[inside.length - 1]] : null;
  }

  const STOPS = [[110, 10, 90, 0], [190, 30, 90, 120], [240, 100, 30, 190], [255, 225, 90, 235]];
  /** Colours, red green blue and opacity, of the codes 0 to most of a coarse map. */
  const ramp = (most) => Array.from({ length: most + 1 }, (_, level) => {
    const place = (level / most) * (STOPS.length - 1), low = Math.min(Math.floor(place), STOPS.length - 2);
    return STOPS[low].map((value, i) => Math.round(value + (STOPS[low + 1][i] - value) * (place - low)));
  });

  const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }; // rows and columns

  return { inflate, floats, unpack, element, mark, percent, clipped, ramp, STEPS };
})();
