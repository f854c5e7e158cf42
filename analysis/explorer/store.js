"use strict";
// What the page holds: its packed blocks, unpacked when first needed, and what one query token finds, looked up in them.
// A state has scene, model, layer, t, view, head ("all" or its number) and protocol; it is never changed here.
const explorerStore = (data) => {
  const { inflate, floats, unpack } = explorerTools;
  const cache = new Map();
  const remember = (key, make) => {
    if (!cache.has(key)) cache.set(key, make());
    return cache.get(key);
  };

  // --- names and sizes ------------------------------------------------------------------------------------------------

  const layerOf = (model, index) => data.models[model].layers.find((layer) => layer.layer === index);
  const shown = (state) => layerOf(state.model, state.layer);
  const viewsOf = (state) => data.scenes[state.scene].views;
  const timeOf = (state) => data.models[state.model].timesteps.indexOf(state.t);
  const gridOf = (scene, layer) => data.scenes[scene].grids[layer.grid.join("x")];
  const countOf = (state) => gridOf(state.scene, shown(state)).asked.length;
  const cellsOf = (layer) => layer.grid.map((side) => Math.min(side, data.levels.cells));
  const lattice = (layer) => layer.grid.map((side) => Math.min(side, 16)); // rows and columns of asked tokens
  const clamp = (value, most) => Math.max(0, Math.min(most, value));

  const keyOf = (kind, scene, model, layer, time) => [kind, scene, model, layer, ...(time === null ? [] : [time])].join("/");
  const has = (kind, { scene, model, layer }, time = null) => keyOf(kind, scene, model, layer, time) in data.blocks;
  function hasHeads(state) {
    const time = timeOf(state), { heads_at } = data.models[state.model];
    return has("heads", state, time) || (has("exact", state, time) && heads_at.includes(time));
  }

  function askedAt(layer, x, y) {
    const [rows, columns] = lattice(layer);
    return clamp(Math.floor(y * rows), rows - 1) * columns + clamp(Math.floor(x * columns), columns - 1);
  }
  const centre = (layer, token) => {
    const [h, w] = layer.grid;
    return [((token % w) + 0.5) / w, (Math.floor(token / w) + 0.5) / h];
  };
  const centreAsked = (state, place) => centre(shown(state), gridOf(state.scene, shown(state)).asked[place]);

  // --- blocks ---------------------------------------------------------------------------------------------------------

  /** One layer's block, of all timesteps or of one; null where it was left out. */
  function block(kind, { scene, model, layer: index }, time = null) {
    const key = keyOf(kind, scene, model, index, time);
    if (!(key in data.blocks)) return Promise.resolve(null);
    return remember(key, async () => {
      const layer = layerOf(model, index), views = data.scenes[scene].views.length, asked = gridOf(scene, layer).asked.length;
      const raw = await inflate(data.blocks[key]), [rows, columns] = cellsOf(layer), { heads, grid } = layer;
      if (kind === "exact") {
        const size = { asked, askedColumns: lattice(layer)[1], tokens: grid[0] * grid[1], columns: grid[1] };
        return explorerAttention.parse(raw, { views, heads, ...size });
      }
      const lead = (time === null ? data.models[model].timesteps.length : heads) * views;
      return unpack(raw, data.fields[kind], lead, asked, views - 1, rows * columns);
    });
  }
  function truth(scene, layer) {
    const grid = gridOf(scene, layer);
    return remember(`truth ${scene} ${layer.grid}`, async () => ({
      query: await floats(grid.query_xy), true: await floats(grid.true_xy), visible: await floats(grid.visible),
    }));
  }
  const fundamentals = (scene) => remember(`lines ${scene}`, () => floats(data.scenes[scene].fundamental));

  // --- what a token finds ---------------------------------------------------------------------------------------------

  /** Look up what one query token finds in each other view, and how to shade these: by its weights, or those of several. */
  async function look(state, place, brush) {
    const { scene, view } = state, layer = shown(state), time = timeOf(state);
    const [all, exact, heads, facts, lines, pooled] = await Promise.all([
      block("together", state), block("exact", state, time), state.head === "all" ? null : block("heads", state, time),
      truth(scene, layer), fundamentals(scene), pooledMaps(state),
    ]);
    const asked = countOf(state), K = viewsOf(state).length - 1, own = place * 2 + view * asked * 2;
    const position = facts.query.slice(own, own + 2), from = Number.isNaN(position[0]) ? centreAsked(state, place) : position;
    const source = { all, exact, heads, pooled, facts, layer, weights: exact && explorerAttention.weights(exact, view, place, state.head) };
    if (exact && state.head !== "all") source.matches = explorerAttention.matches(exact, view, place, state.head);
    const shades = shadesOf(state, exact, pooled, [...new Set([place, ...brush])]);
    return others(state).map((other, k) => {
      const line = lines.slice((view * K + k) * 9, (view * K + k) * 9 + 9), pair = (view * asked + place) * K + k;
      const found = state.protocol === "ratio" ? byRatio(state, source, pair) : byAttention(state, source, pair, other, k);
      return {
        other, layer, ...found, match: centre(layer, found.token), tally: tally(state, source, k), shades: shades && shades(other, k),
        runnersUp: state.protocol === "ratio" ? [] : runnersUp(state, source, found.token, pair, other),
        visible: Boolean(facts.visible[pair]), truth: [facts.true[pair * 2], facts.true[pair * 2 + 1]],
        line: [0, 1, 2].map((row) => line[row * 3] * from[0] + line[row * 3 + 1] * from[1] + line[row * 3 + 2]),
      };
    });
  }
  const others = (state) => viewsOf(state).map((_, n) => n).filter((n) => n !== state.view);
  const lead = (state, first) => first * viewsOf(state).length * countOf(state) * (viewsOf(state).length - 1);
  const coded = (value) => (value / data.levels.share) ** 2;

  function byRatio(state, { all }, pair) {
    const at = lead(state, timeOf(state)) + pair, share = coded(all.share[at]), mass = coded(all.mass[at]);
    const [right, counted] = [Boolean(all.ratio_right[at]), Boolean(all.ratio_kept[at])];
    return { token: all.ratio_token[at], right, counted, share, mass, ratio: coded(all.ratio[at]) };
  }
  function byAttention(state, { all, exact, heads, facts, weights, matches }, pair, other, k) {
    const counted = Boolean(facts.visible[pair]), first = state.head === "all" ? timeOf(state) : state.head, at = lead(state, first) + pair;
    if (matches) {
      const inside = weights.subarray(other * exact.tokens, (other + 1) * exact.tokens), mass = inside.reduce((a, b) => a + b, 0);
      return { token: matches[k], right: Boolean(exact.right[at]), counted, share: mass ? inside[matches[k]] / mass : 0, mass };
    }
    const source = state.head === "all" ? all : heads, part = (name) => source[state.head === "all" ? name : `head_${name}`][at];
    return { token: part("token"), right: Boolean(part("right")), counted, share: coded(part("share")), mass: coded(part("mass")) };
  }
  /** The tokens of second and third highest weight. */
  function runnersUp(state, { exact, pooled, weights, layer }, match, pair, other) {
    if (!exact && (!pooled || state.head !== "all")) return [];
    if (!exact) return [0, 1].map((n) => centre(layer, pooled.runner_up[(lead(state, timeOf(state)) + pair) * 2 + n]));
    const inside = weights.slice(other * exact.tokens, (other + 1) * exact.tokens);
    inside[match] = -1;
    return [0, 1].map(() => {
      const best = inside.indexOf(Math.max(...inside));
      inside[best] = -1;
      return centre(layer, best);
    });
  }
  /** Count, over all asked tokens of a pair of views, the right ones of those that the protocol counts. */
  function tally(state, { all, exact, heads, facts }, k) {
    const asked = countOf(state), K = viewsOf(state).length - 1, ratio = state.protocol === "ratio";
    const pair = state.view * asked * K + k, at = lead(state, state.head === "all" ? timeOf(state) : state.head) + pair;
    const rights = ratio ? all.ratio_right : state.head === "all" ? all.right : exact ? exact.right : heads.head_right;
    let right = 0, counted = 0;
    for (let n = 0; n < asked * K; n += K) {
      if (!(ratio ? all.ratio_kept[at + n] : facts.visible[pair + n])) continue;
      counted += 1;
      right += rights[at + n] ? 1 : 0;
    }
    return { right, counted };
  }
  /** Whether a token is right in each other view, in a layer at each timestep: "right", "wrong" or "unseen"; null if left out. */
  async function verdicts(state, layer, place) {
    const all = await block("together", state), facts = await truth(state.scene, layer);
    const K = viewsOf(state).length - 1, pair = (state.view * gridOf(state.scene, layer).asked.length + place) * K, ratio = state.protocol === "ratio";
    return data.models[state.model].timesteps.map((_, time) => all && others(state).map((_, k) => {
      const at = lead(state, time) + pair + k;
      if (!(ratio ? all.ratio_kept[at] : facts.visible[pair + k])) return "unseen";
      return (ratio ? all.ratio_right[at] : all.right[at]) ? "right" : "wrong";
    }));
  }

  // --- shades ---------------------------------------------------------------------------------------------------------

  const pooledMaps = (state) => (state.head === "all" ? block("map", state) : block("head_map", state, timeOf(state)));

  /** How to shade another view: levels of 0 to 1 and their rows and columns; null where the page holds no attention. */
  function shadesOf(state, exact, pooled, places) {
    const { view, head } = state, layer = shown(state), [rows, columns] = layer.grid;
    if (exact) {
      const each = places.map((place) => explorerAttention.weights(exact, view, place, head)), n = rows * columns;
      return (other) => ({ rows, columns, levels: within(each.map((all) => all.subarray(other * n, (other + 1) * n))) });
    }
    if (!pooled) return null;
    const [down, across] = cellsOf(layer), size = down * across, K = viewsOf(state).length - 1, first = head === "all" ? timeOf(state) : head;
    return (other, k) => {
      const start = (place) => (lead(state, first) + (view * countOf(state) + place) * K + k) * size;
      const map = (place) => pooled[head === "all" ? "map" : "head_map"].subarray(start(place), start(place) + size);
      return { rows: down, columns: across, levels: within(places.map((place) => Float64Array.from(map(place), (level) => level ** 2))) };
    };
  }
  /** Turn weights inside a view, of one token or several, into the root of their mean over its highest. */
  function within(maps) {
    const mean = new Float64Array(maps[0].length);
    for (const map of maps) {
      const sum = map.reduce((a, b) => a + b, 0);
      if (sum > 0) map.forEach((weight, n) => (mean[n] += weight / sum));
    }
    const highest = mean.reduce((a, b) => Math.max(a, b), 0) || 1;
    return mean.map((weight) => Math.sqrt(weight / highest));
  }

  return { layerOf, shown, viewsOf, timeOf, gridOf, countOf, lattice, clamp, has, hasHeads, askedAt, centreAsked, look, verdicts };
};
