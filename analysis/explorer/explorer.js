(() => {
  const section = document.getElementById("explorer");
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const { inflate, floats, unpack, element, mark, percent, clipped, ramp } = explorerTools;
  const SIDE = 100, SHADES = 255, HEAT = ramp(SHADES);
  const byName = (name) => section.querySelector(`[data-part="${name}"]`);
  if (typeof DecompressionStream === "undefined") {
    byName("unable").hidden = false;
    return;
  }

  // --- the packed data, unpacked when it is first needed ------------------------------------------------------------

  const cache = new Map();
  const remember = (key, make) => {
    if (!cache.has(key)) cache.set(key, make());
    return cache.get(key);
  };

  const layerOf = (model, index) => data.models[model].layers.find((layer) => layer.layer === index);
  const gridOf = (scene, layer) => data.scenes[scene].grids[layer.grid.join("x")];
  const cellsOf = (layer) => layer.grid.map((side) => Math.min(side, data.levels.cells));
  const keyOf = (kind, scene, model, layer, time) => [kind, scene, model, layer, ...(time === null ? [] : [time])].join("/");
  const has = (kind, scene, model, layer, time = null) => keyOf(kind, scene, model, layer, time) in data.blocks;

  /** One layer's block, of all timesteps or of one; null where it was left out. */
  function block(kind, scene, model, layer, time = null) {
    const key = keyOf(kind, scene, model, layer.layer, time);
    if (!(key in data.blocks)) return Promise.resolve(null);
    return remember(key, async () => {
      const views = data.scenes[scene].views.length, [rows, columns] = cellsOf(layer), raw = await inflate(data.blocks[key]);
      const asked = gridOf(scene, layer).asked.length;
      if (kind === "exact") return explorerAttention.parse(raw, views, asked, layer.grid[0] * layer.grid[1], layer.heads);
      const lead = (time === null ? data.models[model].timesteps.length : layer.heads) * views;
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

  // --- what is shown: the state, and what it means -------------------------------------------------------------------

  const state = { ...data.start, head: "all", x: 0, y: 0 };
  let preview = null; // a place pointed at but not chosen
  let brush = []; // places of tokens that are asked together with the query

  const lattice = (layer) => layer.grid.map((side) => Math.min(side, 16)); // rows and columns of asked tokens
  const clamp = (value, most) => Math.max(0, Math.min(most, value));

  function askedAt(layer, x, y) {
    const [rows, columns] = lattice(layer);
    return clamp(Math.floor(y * rows), rows - 1) * columns + clamp(Math.floor(x * columns), columns - 1);
  }
  const centre = (layer, token) => {
    const [h, w] = layer.grid;
    return [((token % w) + 0.5) / w, (Math.floor(token / w) + 0.5) / h];
  };
  const centreAsked = (layer, place) => centre(layer, gridOf(state.scene, layer).asked[place]);

  /** Keep the state among what the data holds. */
  function settle() {
    const model = data.models[state.model];
    if (!layerOf(state.model, state.layer)) state.layer = model.selected;
    const there = ({ layer }) => has("together", state.scene, state.model, layer);
    if (!there(state)) state.layer = (model.layers.find(there) || model.layers[0]).layer;
    if (!model.timesteps.includes(state.t)) state.t = model.timesteps[Math.floor(model.timesteps.length / 2)];
    if (state.protocol === "ratio") state.head = "all";
    if (state.head !== "all" && !hasHeads(state.head)) state.head = "all";
    state.view = Math.min(state.view, data.scenes[state.scene].views.length - 1);
  }
  const timeOf = () => data.models[state.model].timesteps.indexOf(state.t);
  const hasHeads = (head) =>
    head < layerOf(state.model, state.layer).heads && has("heads", state.scene, state.model, state.layer, timeOf());

  const WHOLE = ["scene", "model", "layer", "t", "view"], PREFIX = "#explore:";
  function writeFragment() {
    const words = new URLSearchParams();
    for (const name of [...WHOLE, "head", "protocol"]) words.set(name, state[name]);
    words.set("x", state.x.toFixed(4));
    words.set("y", state.y.toFixed(4));
    if (brush.length) words.set("brush", brush.join("."));
    history.replaceState(null, "", PREFIX + words);
  }
  /** Take over what a fragment says, as far as it makes sense; tell whether it was one of ours. */
  function readFragment() {
    if (!location.hash.startsWith(PREFIX)) return false;
    const words = new URLSearchParams(location.hash.slice(PREFIX.length));
    const whole = (name, allowed) => {
      const value = Number(words.get(name));
      if (words.has(name) && Number.isInteger(value) && allowed(value)) state[name] = value;
    };
    whole("scene", (n) => Boolean(data.scenes[n]));
    whole("model", (n) => n in data.models);
    whole("layer", (n) => Boolean(layerOf(state.model, n)));
    whole("t", (n) => data.models[state.model].timesteps.includes(n));
    whole("view", (n) => n in data.scenes[state.scene].views);
    if (["attention", "ratio"].includes(words.get("protocol"))) state.protocol = words.get("protocol");
    const head = words.get("head");
    state.head = /^\d+$/.test(head || "") ? Number(head) : "all";
    for (const axis of ["x", "y"]) {
      const value = Number.parseFloat(words.get(axis));
      if (value >= 0 && value <= 1) state[axis] = value;
    }
    const asked = layerOf(state.model, state.layer) ? gridOf(state.scene, layerOf(state.model, state.layer)).asked.length : 0;
    const painted = (words.get("brush") || "").split(".").filter((text) => /^\d+$/.test(text)).map(Number);
    brush = [...new Set(painted)].filter((place) => place < asked);
    return true;
  }

  /** Look up what one query token finds in each other view. */
  async function look(place, view) {
    const { scene, model, head, protocol } = state, layer = layerOf(model, state.layer), time = timeOf();
    const [all, heads, facts, lines, shades] = await Promise.all([
      block("together", scene, model, layer), head === "all" ? null : block("heads", scene, model, layer, time), truth(scene, layer),
      fundamentals(scene), shadesOf(layer, view, [...new Set([place, ...brush])]),
    ]);
    const views = data.scenes[scene].views, others = views.map((_, n) => n).filter((n) => n !== view);
    const asked = gridOf(scene, layer).asked.length, K = others.length;
    const own = place * 2 + view * asked * 2, position = facts.query.slice(own, own + 2);
    const from = Number.isNaN(position[0]) ? centreAsked(layer, place) : position;
    return others.map((other, k) => {
      const pair = (view * asked + place) * K + k, at = (head === "all" ? time : head) * views.length * asked * K + pair;
      const ratio = protocol === "ratio", source = heads || all, part = (name) => (heads ? `head_${name}` : name);
      const token = ratio ? all.ratio_token[at] : source[part("token")][at];
      const tally = counts(source, facts, { at: at - place * K, pair: pair - place * K, K, asked, ratio, part });
      const line = lines.slice((view * K + k) * 9, (view * K + k) * 9 + 9);
      return {
        other, k, token, match: centre(layer, token), tally, layer,
        right: Boolean(ratio ? all.ratio_right[at] : source[part("right")][at]),
        counted: Boolean(ratio ? all.ratio_kept[at] : facts.visible[pair]),
        visible: Boolean(facts.visible[pair]),
        truth: [facts.true[pair * 2], facts.true[pair * 2 + 1]],
        share: square(source[part("share")][at]), mass: square(source[part("mass")][at]),
        ratio: ratio ? square(all.ratio[at]) : null,
        runnersUp: heads || ratio ? [] : [0, 1].map((n) => centre(layer, all.runner_up[at * 2 + n])),
        shades: shades && shades(other, k),
        line: [0, 1, 2].map((row) => line[row * 3] * from[0] + line[row * 3 + 1] * from[1] + line[row * 3 + 2]),
      };
    });
  }

  /** How to shade another view: levels of 0 to 1 and their rows and columns; null where the page holds no attention. */
  async function shadesOf(layer, view, places) {
    const { scene, model, head } = state, time = timeOf(), [rows, columns] = layer.grid;
    const exact = await block("exact", scene, model, layer, time);
    if (exact) {
      const each = places.map((place) => explorerAttention.weights(exact, view, place, head)), n = rows * columns;
      return (other) => ({ rows, columns, levels: within(each.map((all) => all.subarray(other * n, (other + 1) * n))) });
    }
    const kind = head === "all" ? "map" : "head_map", pooled = await block(kind, scene, model, layer, head === "all" ? null : time);
    if (!pooled) return null;
    const views = data.scenes[scene].views.length, asked = gridOf(scene, layer).asked.length, cells = cellsOf(layer);
    const size = cells[0] * cells[1], lead = (head === "all" ? time : head) * views + view;
    return (other, k) => {
      const at = (place) => ((lead * asked + place) * (views - 1) + k) * size;
      const maps = places.map((place) => Float64Array.from(pooled[kind].subarray(at(place), at(place) + size), (level) => level ** 2));
      return { rows: cells[0], columns: cells[1], levels: within(maps) };
    };
  }
  /** Turn weights inside a view, of one token or several, into the root of their mean over its highest. */
  function within(maps) {
    const mean = new Float64Array(maps[0].length);
    for (const map of maps) {
      let sum = 0;
      for (const weight of map) sum += weight;
      if (sum > 0) map.forEach((weight, n) => (mean[n] += weight / sum));
    }
    const highest = mean.reduce((a, b) => Math.max(a, b), 0) || 1;
    return mean.map((weight) => Math.sqrt(weight / highest));
  }
  const square = (coded) => (coded / data.levels.share) ** 2;

  /** Count, over all asked tokens of a pair of views, the right ones of those that the protocol counts. */
  function counts(source, facts, { at, pair, K, asked, ratio, part }) {
    let right = 0, counted = 0;
    for (let n = 0; n < asked; n++) {
      const here = ratio ? source.ratio_kept[at + n * K] : facts.visible[pair + n * K];
      if (here) counted += 1;
      if (here && source[ratio ? "ratio_right" : part("right")][at + n * K]) right += 1;
    }
    return { right, counted };
  }

  // --- drawing -------------------------------------------------------------------------------------------------------

  function box([x, y], layer, kind) {
    const [h, w] = layer.grid, down = SIDE * aspect();
    return mark("rect", { class: kind, x: SIDE * (x - 0.5 / w), y: down * (y - 0.5 / h), width: SIDE / w, height: down / h });
  }
  const aspect = () => data.scenes[state.scene].aspect;
  const spot = ([x, y]) => ({ cx: SIDE * x, cy: SIDE * aspect() * y });

  function heat(canvas, { rows, columns, levels }) {
    const pixels = new ImageData(columns, rows);
    canvas.width = columns;
    canvas.height = rows;
    levels.forEach((level, n) => pixels.data.set(HEAT[Math.round(level * SHADES)], n * 4));
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }
  function findings(found) {
    const drawn = [], { match, right, visible, truth: at, runnersUp, layer } = found, ends = clipped(found.line);
    if (ends) {
      const [[x1, y1], [x2, y2]] = ends.map(([x, y]) => [SIDE * x, SIDE * aspect() * y]);
      drawn.push(mark("line", { class: "line-case", x1, y1, x2, y2 }), mark("line", { class: "line", x1, y1, x2, y2 }));
    }
    for (const place of runnersUp) drawn.push(box(place, layer, "runner"));
    if (visible) drawn.push(mark("circle", { class: "true-case", ...spot(at), r: 3.4 }), mark("circle", { class: "true", ...spot(at), r: 3.4 }));
    const { cx, cy } = spot(match);
    if (!found.counted) drawn.push(mark("circle", { class: "match-open", cx, cy, r: 1.9 }));
    else if (right) drawn.push(mark("circle", { class: "match-right", cx, cy, r: 1.9 }));
    else for (const kind of ["match-case", "match-wrong"]) drawn.push(mark("path", { class: kind, d: `M${cx - 2} ${cy - 2}l4 4m0 -4l-4 4` }));
    return drawn;
  }

  function verdict(found) {
    if (!data.judged) return "";
    if (state.protocol === "ratio") return found.counted ? (found.right ? "right" : "wrong") : "not counted: too ambiguous";
    return found.counted ? (found.right ? "right" : "wrong") : "not seen here: no truth";
  }
  function offBy(found) {
    if (!data.judged || Number.isNaN(found.truth[0]) || (state.protocol === "attention" && !found.visible)) return null;
    const across = found.match[0] - found.truth[0], down = found.match[1] - found.truth[1];
    return Math.hypot(across / Math.sqrt(aspect()), down * Math.sqrt(aspect()));
  }
  const viewName = (n) => `view ${data.scenes[state.scene].views[n].index}`;

  let panels = [];
  function layOut() {
    const scene = data.scenes[state.scene], number = Number(byName("views").dataset.images.split(" ")[state.scene]);
    panels = scene.views.map((view, n) => {
      const shape = { svg: true, viewBox: `0 0 ${SIDE} ${SIDE * scene.aspect}`, "aria-hidden": "true" };
      const marks = element("svg", { ...shape, class: "marks" }), canvas = element("canvas", { "aria-hidden": "true" });
      const image = element("svg", { ...shape, class: "image" }, mark("use", { href: `#image-${number}-${view.index}` }));
      const stage = element("div", { class: "stage", tabindex: "0", role: "application" }, image, canvas, marks);
      const title = element("strong"), note = element("span", { class: "note" });
      stage.style.aspectRatio = `1 / ${scene.aspect}`;
      listen(stage, n);
      return { stage, canvas, marks, title, note, whole: element("figure", {}, stage, element("figcaption", {}, title, note)) };
    });
    byName("views").replaceChildren(...panels.map((panel) => panel.whole));
  }

  let turn = 0;
  async function draw() {
    const mine = ++turn, shown = preview || state, layer = layerOf(state.model, state.layer);
    const place = askedAt(layer, shown.x, shown.y), found = await look(place, state.view);
    const cells = data.judged ? await matrixCells() : [];
    if (mine !== turn) return; // something newer is being drawn
    drawQuery(panels[state.view], layer, centreAsked(layer, place));
    for (const each of found) drawFound(panels[each.other], each);
    readOut(found, place, layer);
    if (data.judged) drawMatrix(cells);
    section.dataset.drawn = String(mine);
  }
  function drawQuery(panel, layer, at) {
    const { index, role } = data.scenes[state.scene].views[state.view];
    panel.whole.className = "asks";
    panel.canvas.hidden = true;
    const painted = brush.map((one) => box(centreAsked(layer, one), layer, "brushed"));
    panel.marks.replaceChildren(...painted, box(at, layer, "query-case"), box(at, layer, "query"));
    panel.title.textContent = `query: view ${index}`;
    panel.title.dataset.verdict = ""; // of when it answered
    panel.note.textContent = `${role} · x ${percent(at[0], 0)}, y ${percent(at[1], 0)}`;
    panel.stage.setAttribute("aria-label", `View ${index}, ${role}: the query view. Arrow keys move the query token.`);
  }
  function drawFound(panel, found) {
    const { index, role } = data.scenes[state.scene].views[found.other], said = verdict(found);
    panel.whole.className = "answers";
    panel.canvas.hidden = !found.shades;
    if (found.shades) heat(panel.canvas, found.shades);
    panel.marks.replaceChildren(...findings(found));
    panel.title.textContent = said ? `view ${index}: ${said}` : `view ${index}`;
    panel.title.dataset.verdict = found.counted ? said : "";
    panel.note.textContent = found.shades ? role : `${role} · the page holds no attention of this layer at this t`;
    panel.stage.setAttribute("aria-label", `View ${index}, ${role}${said && `: ${said}`}. Press Enter or an arrow key to ask from here.`);
  }

  let speaking;
  function readOut(found, place, layer) {
    const rows = found.map((each) => {
      const off = offBy(each), { right, counted } = each.tally;
      const texts = [
        ...(data.judged ? [verdict(each), off === null ? "–" : percent(off)] : []), percent(each.share), percent(each.mass),
        ...(state.protocol === "ratio" ? [each.ratio.toFixed(3)] : []),
        ...(data.judged ? [`${right} of ${counted}${counted ? ` (${percent(right / counted)})` : ""}`] : []),
      ];
      const name = element("th", { scope: "row" }, viewName(each.other));
      return element("tr", {}, name, ...texts.map((text) => element("td", {}, text)));
    });
    const ratio = state.protocol === "ratio" ? ["ratio"] : [];
    const [words, last] = data.judged ? [["match", "off by"], ["right, all tokens"]] : [[], []];
    const heads = ["in", ...words, "weight on match", "attention on view", ...ratio, ...last];
    byName("headings").replaceChildren(...heads.map((text) => element("th", { scope: "col" }, text)));
    byName("body").replaceChildren(...rows);
    const who = state.head === "all" ? "all heads" : `head ${state.head}`;
    const what = `${data.models[state.model].name}, layer ${layer.layer}, ${who}, t ${state.t}`;
    const token = gridOf(state.scene, layer).asked[place];
    byName("where").textContent = `${what}: token ${token} of ${viewName(state.view)}`;
    clearTimeout(speaking);
    const sentence = found.map((each) => `${viewName(each.other)} ${verdict(each)}${offBy(each) === null ? "" : `, off by ${percent(offBy(each))}`}`);
    speaking = setTimeout(() => (byName("live").textContent = `${what}. ${sentence.join("; ")}.`), 250);
  }

  // --- every layer and timestep at once --------------------------------------------------------------------------------

  async function matrixCells() {
    const shown = preview || state, others = data.scenes[state.scene].views.length - 1, ratio = state.protocol === "ratio";
    const rows = [];
    for (const [model, { timesteps, layers }] of data.models.entries()) {
      const columns = await Promise.all(layers.map(async (layer) => {
        const all = await block("together", state.scene, model, layer);
        if (!all) return timesteps.map(() => null);
        const facts = await truth(state.scene, layer), asked = gridOf(state.scene, layer).asked.length;
        const pair = (state.view * asked + askedAt(layer, shown.x, shown.y)) * others;
        return timesteps.map((_, time) => Array.from({ length: others }, (_, k) => {
          const at = time * (others + 1) * asked * others + pair + k;
          if (!(ratio ? all.ratio_kept[at] : facts.visible[pair + k])) return "unseen";
          return (ratio ? all.ratio_right[at] : all.right[at]) ? "right" : "wrong";
        }));
      }));
      rows.push(...timesteps.map((t, time) => ({ model, t, cells: columns.map((column) => column[time]) })));
    }
    return rows;
  }
  const SIGNS = { right: "●", wrong: "×", unseen: "·" };
  function drawMatrix(rows) {
    const table = byName("matrix"), focused = table.contains(document.activeElement);
    const layers = data.models[state.model].layers, many = data.models.length > 1;
    const bodies = data.models.map((model, m) => {
      const title = element("tr", {}, element("th", { colspan: model.layers.length + 1, class: "model", scope: "rowgroup" }, model.name));
      const names = element("tr", {}, element("th", { scope: "col" }, "t"), ...model.layers.map(({ layer, place }) => element("th", { scope: "col", title: place }, `${layer}`)));
      const lines = rows.filter((row) => row.model === m).map((row) => element("tr", {}, element("th", { scope: "row" }, `${row.t}`),
        ...row.cells.map((cell, n) => matrixCell(row, model.layers[n], cell))));
      return element("tbody", {}, ...(many ? [title] : []), names, ...lines);
    });
    table.replaceChildren(table.caption, ...bodies);
    if (focused) table.querySelector("[tabindex='0']")?.focus();
  }
  function matrixCell(row, { layer }, cell) {
    const here = row.model === state.model && row.t === state.t && layer === state.layer;
    const words = cell ? cell.map((kind, k) => `${viewName(k < state.view ? k : k + 1)} ${kind}`).join(", ") : "left out";
    const button = element("button", { type: "button", tabindex: here ? "0" : "-1", "aria-pressed": String(here), "aria-label": `layer ${layer}, t ${row.t}: ${words}` },
      ...(cell || []).map((kind) => element("span", { class: kind, "aria-hidden": "true" }, SIGNS[kind])));
    button.disabled = !cell;
    button.addEventListener("click", () => change({ model: row.model, layer, t: row.t }));
    button.addEventListener("keydown", moveInMatrix);
    return element("td", {}, button);
  }
  function moveInMatrix(event) {
    const [down, across] = STEPS[event.key] || [];
    if (down === undefined) return;
    event.preventDefault();
    const cell = event.target.closest("td"), rows = [...byName("matrix").rows].filter((row) => row.querySelector("td"));
    const row = rows[clamp(rows.indexOf(cell.parentNode) + down, rows.length - 1)];
    const button = row.cells[clamp(cell.cellIndex + across, row.cells.length - 1) || 1]?.querySelector("button");
    if (button && !button.disabled) button.click();
  }
  const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  // --- being used ------------------------------------------------------------------------------------------------------

  function change(values, { keep = false } = {}) {
    const { scene, layer, view } = state;
    Object.assign(state, values);
    if (state.scene !== scene || state.layer !== layer || state.view !== view) brush = [];
    preview = null;
    settle();
    if (state.scene !== scene) layOut();
    fillChoices();
    if (!keep) writeFragment();
    draw();
  }

  function listen(stage, view) {
    const place = (event) => {
      const area = stage.getBoundingClientRect();
      return { x: clamp((event.clientX - area.left) / area.width, 1), y: clamp((event.clientY - area.top) / area.height, 1) };
    };
    stage.addEventListener("click", (event) => (event.shiftKey && view === state.view ? paint(place(event), true) : change({ view, ...place(event) })));
    stage.addEventListener("pointermove", (event) => {
      if (view !== state.view) return;
      if (event.shiftKey && event.buttons) return void paint(place(event));
      if (event.pointerType !== "mouse") return void change(place(event)); // a finger that is dragged chooses
      preview = place(event);
      draw();
    });
    stage.addEventListener("pointerleave", () => {
      if (!preview) return;
      preview = null;
      draw();
    });
    stage.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const layer = layerOf(state.model, state.layer), [rows, columns] = lattice(layer), [down, across] = STEPS[event.key] || [];
      if (event.key === "Enter" || event.key === " ") change({ view });
      else if (down !== undefined) {
        const at = askedAt(layer, state.x, state.y), row = clamp(Math.floor(at / columns) + down, rows - 1);
        const [x, y] = centreAsked(layer, row * columns + clamp((at % columns) + across, columns - 1));
        change({ view, x, y });
      } else if (event.key === "b" && view === state.view) paint(state, true);
      else if (event.key === "Escape" && brush.length) paint(null);
      else if (event.key in KEYS) step(...KEYS[event.key]);
      else return;
      event.preventDefault();
    });
  }
  /** Add the token at a place to those asked together, or, where it may, take it away; null clears them. */
  function paint(at, may = false) {
    const place = at && askedAt(layerOf(state.model, state.layer), at.x, at.y), there = brush.includes(place);
    if (at && there && !may) return;
    brush = !at ? [] : there ? brush.filter((one) => one !== place) : [...brush, place];
    preview = null;
    writeFragment();
    draw();
  }
  const KEYS = { "[": ["layer", -1], "]": ["layer", 1], ",": ["t", -1], ".": ["t", 1], h: ["head", 1], m: ["model", 1] };
  /** Go to the next choice of a menu; heads and models come round. */
  function step(name, by) {
    const menu = byName(name), open = [...menu.options].filter((option) => !option.disabled);
    const next = open.indexOf(menu.selectedOptions[0]) + by, round = name === "head" || name === "model";
    const option = open[round ? next % open.length : clamp(next, open.length - 1)];
    if (option) change({ [name]: option.value === "all" ? "all" : Number(option.value) });
  }

  function fillChoices() {
    const model = data.models[state.model], layer = layerOf(state.model, state.layer);
    fill("scene", data.scenes.map((scene, n) => scene && [n, scene.name]).filter(Boolean));
    fill("model", data.models.map(({ name }, n) => [n, name]));
    fill("layer", model.layers.map(({ layer: n, place, grid }) =>
      [n, `${n} · ${place} · ${grid.join("x")}${data.judged && n === model.selected ? " (selected)" : ""}`, !has("together", state.scene, state.model, n)]));
    fill("t", model.timesteps.map((t) => [t, `${t}`]));
    const heads = Array.from({ length: layer.heads }, (_, n) => [n, hasHeads(n) ? `head ${n}` : `head ${n} (left out at this t)`, state.protocol === "ratio" || !hasHeads(n)]);
    fill("head", [["all", "all together"], ...heads]);
    fill("protocol", [["attention", "attention: highest weight"], ["ratio", "ratio: nearest key"]]);
    byName("scene").closest("label").hidden = data.scenes.filter(Boolean).length < 2;
    byName("model").closest("label").hidden = data.models.length < 2;
    byName("t").closest("label").hidden = model.timesteps.length < 2;
    byName("protocol").closest("label").hidden = !data.judged;
  }
  function fill(name, choices) {
    const options = choices.map(([value, text, disabled]) => {
      const option = element("option", { value }, text);
      option.disabled = Boolean(disabled);
      option.selected = String(value) === String(state[name]);
      return option;
    });
    byName(name).replaceChildren(...options);
  }

  for (const name of ["scene", "model", "layer", "t", "head", "protocol"]) {
    byName(name).addEventListener("change", ({ target }) => {
      const value = target.value;
      change({ [name]: name === "protocol" || value === "all" ? value : Number(value) });
    });
  }
  byName("link").addEventListener("click", ({ target }) => {
    writeFragment();
    navigator.clipboard.writeText(location.href).then(() => (target.textContent = "Copied"), () => (target.textContent = "It is in the address bar"));
  });
  window.addEventListener("hashchange", () => readFragment() && change({}, { keep: true }));

  [state.x, state.y] = centreAsked(layerOf(state.model, state.layer), data.start.token);
  const asked = readFragment();
  settle();
  layOut();
  fillChoices();
  byName("live-part").hidden = false;
  for (const part of section.querySelectorAll("[data-judged]")) part.hidden = !data.judged;
  section.classList.add("started");
  draw().then(() => asked && section.scrollIntoView());
})();
