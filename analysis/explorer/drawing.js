"use strict";
// What the explorer draws: a panel for each view, the numbers, and the table of every layer and timestep.
const explorerDrawing = (section, data, store, { listen, choose }) => {
  const { element, mark, percent, clipped, ramp } = explorerTools;
  const SIDE = 100, SHADES = 255, HEAT = ramp(SHADES), SIGNS = { right: "●", wrong: "×", unseen: "·" };
  const byName = (name) => section.querySelector(`[data-part="${name}"]`);
  const aspectOf = (state) => data.scenes[state.scene].aspect;
  const viewName = (state, n) => store.viewsOf(state)[n].name ?? `view ${store.viewsOf(state)[n].index}`;
  const capital = (name) => name.replace(/^view /, "View ");

  // --- panels ---------------------------------------------------------------------------------------------------------

  let panels = [];
  function layOut(state) {
    const { aspect, views } = data.scenes[state.scene], number = byName("views").dataset.images.split(" ")[state.scene];
    panels = views.map((view, n) => {
      const shape = { svg: true, viewBox: `0 0 ${SIDE} ${SIDE * aspect}`, "aria-hidden": "true" };
      const marks = element("svg", { ...shape, class: "marks" }), canvas = element("canvas", { "aria-hidden": "true" });
      const image = element("svg", { ...shape, class: "image" }, mark("use", { href: `#image-${number}-${view.index}` }));
      const stage = element("div", { class: "stage", tabindex: "0", role: "application" }, image, canvas, marks);
      const title = element("strong"), note = element("span", { class: "note" });
      stage.style.aspectRatio = `1 / ${aspect}`;
      listen(stage, n);
      return { stage, canvas, marks, title, note, whole: element("figure", {}, stage, element("figcaption", {}, title, note)) };
    });
    byName("views").replaceChildren(...panels.map((panel) => panel.whole));
    matrix = null;
  }
  function box(state, [x, y], layer, kind) {
    const [h, w] = layer.grid, down = SIDE * aspectOf(state);
    return mark("rect", { class: kind, x: SIDE * (x - 0.5 / w), y: down * (y - 0.5 / h), width: SIDE / w, height: down / h });
  }
  function heat(canvas, { rows, columns, levels }) {
    const pixels = new ImageData(columns, rows);
    if (canvas.width !== columns) canvas.width = columns;
    if (canvas.height !== rows) canvas.height = rows;
    levels.forEach((level, n) => pixels.data.set(HEAT[Math.round(level * SHADES)], n * 4));
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  function drawQuery(state, place, brush) {
    const layer = store.shown(state), at = store.centreAsked(state, place), panel = panels[state.view];
    const { role } = store.viewsOf(state)[state.view], kind = state.locked ? "query locked" : "query";
    panel.whole.className = state.locked ? "asks locked" : "asks";
    panel.canvas.hidden = true;
    const painted = brush.map((one) => box(state, store.centreAsked(state, one), layer, "brushed"));
    panel.marks.replaceChildren(...painted, box(state, at, layer, "query-case"), box(state, at, layer, kind));
    panel.title.textContent = `query: ${viewName(state, state.view)}`;
    panel.title.dataset.verdict = ""; // of when it answered
    const words = [role, `x ${percent(at[0], 0)}, y ${percent(at[1], 0)}`, ...(state.locked ? ["locked"] : [])];
    panel.note.textContent = words.join(" · ");
    panel.stage.setAttribute("aria-label", `${capital(viewName(state, state.view))}, ${role}: the query view. Arrow keys move the query token.`);
  }
  /** How many tokens are asked together. */
  const together = (place, brush) => new Set([place, ...brush]).size;
  function drawFound(state, found, asked) {
    const { role } = store.viewsOf(state)[found.other], panel = panels[found.other];
    const said = asked > 1 ? `mean of ${asked} tokens` : verdict(state, found);
    panel.whole.className = "answers";
    panel.canvas.hidden = !found.shades;
    if (found.shades) heat(panel.canvas, found.shades);
    panel.marks.replaceChildren(...(asked > 1 ? strongest(state, found) : findings(state, found)));
    panel.title.textContent = viewName(state, found.other) + (said && `: ${said}`);
    panel.title.dataset.verdict = asked === 1 && found.counted ? said : "";
    panel.note.textContent = found.shades ? role : `${role} · the page holds no attention of this layer at this t`;
    panel.stage.setAttribute("aria-label", `${capital(viewName(state, found.other))}, ${role}${said && `: ${said}`}. Press Enter or an arrow key to ask from here.`);
  }
  /** The match of the mean attention of several tokens, which have no one truth: its strongest token, not counted. */
  function strongest(state, { shades }) {
    if (!shades) return [];
    const best = shades.levels.indexOf(shades.levels.reduce((a, b) => Math.max(a, b), 0)), { rows, columns } = shades;
    const [x, y] = [((best % columns) + 0.5) / columns, (Math.floor(best / columns) + 0.5) / rows];
    return [mark("circle", { class: "match-open", cx: SIDE * x, cy: SIDE * aspectOf(state) * y, r: 1.9 })];
  }
  function findings(state, { match, right, visible, truth, runnersUp, layer, line, counted }) {
    const spot = ([x, y]) => ({ cx: SIDE * x, cy: SIDE * aspectOf(state) * y }), drawn = [], ends = clipped(line), { cx, cy } = spot(match);
    if (ends) {
      const [[x1, y1], [x2, y2]] = ends.map(([x, y]) => [SIDE * x, SIDE * aspectOf(state) * y]);
      drawn.push(mark("line", { class: "line-case", x1, y1, x2, y2 }), mark("line", { class: "line", x1, y1, x2, y2 }));
    }
    for (const place of runnersUp) drawn.push(box(state, place, layer, "runner"));
    if (visible) drawn.push(mark("circle", { class: "true-case", ...spot(truth), r: 3.4 }), mark("circle", { class: "true", ...spot(truth), r: 3.4 }));
    if (!counted) drawn.push(mark("circle", { class: "match-open", cx, cy, r: 1.9 }));
    else if (right) drawn.push(mark("circle", { class: "match-right", cx, cy, r: 1.9 }));
    else for (const kind of ["match-case", "match-wrong"]) drawn.push(mark("path", { class: kind, d: `M${cx - 2} ${cy - 2}l4 4m0 -4l-4 4` }));
    return drawn;
  }

  // --- in words and numbers -------------------------------------------------------------------------------------------

  function verdict(state, found) {
    if (!data.judged) return "";
    if (found.counted) return found.right ? "right" : "wrong";
    return state.protocol === "ratio" ? "not counted: too ambiguous" : "not seen here: no truth";
  }
  function offBy(state, found) {
    if (!data.judged || Number.isNaN(found.truth[0]) || (state.protocol === "attention" && !found.visible)) return null;
    const across = found.match[0] - found.truth[0], down = found.match[1] - found.truth[1];
    return Math.hypot(across / Math.sqrt(aspectOf(state)), down * Math.sqrt(aspectOf(state)));
  }
  let speaking;
  function readOut(state, found, place, brush) {
    const ratio = state.protocol === "ratio", layer = store.shown(state);
    const rows = found.map((each) => {
      const off = offBy(state, each), { right, counted } = each.tally;
      const texts = [
        ...(data.judged ? [verdict(state, each), off === null ? "–" : percent(off)] : []), percent(each.share), percent(each.mass),
        ...(ratio ? [each.ratio.toFixed(3)] : []),
        ...(data.judged ? [`${right} of ${counted}${counted ? ` (${percent(right / counted)})` : ""}`] : []),
      ];
      const name = element("th", { scope: "row" }, viewName(state, each.other));
      return element("tr", {}, name, ...texts.map((text) => element("td", {}, text)));
    });
    const [words, last] = data.judged ? [["match", "off by"], ["right, all tokens"]] : [[], []];
    const heads = ["in", ...words, "weight on match", "attention on view", ...(ratio ? ["ratio"] : []), ...last];
    byName("headings").replaceChildren(...heads.map((text) => element("th", { scope: "col" }, text)));
    byName("body").replaceChildren(...rows);
    const who = state.head === "all" ? "all heads" : `head ${state.head}`;
    const what = `${data.models[state.model].name}, layer ${layer.layer}, ${who}, t ${state.t}`;
    const asked = together(place, brush);
    const more = asked > 1 ? `; shaded and marked: the mean of ${asked} tokens; the numbers below are of this token alone` : "";
    byName("body").parentNode.classList.toggle("alone", asked > 1);
    byName("where").textContent = `${what}: token ${store.gridOf(state.scene, layer).asked[place]} of ${viewName(state, state.view)}${more}`;
    clearTimeout(speaking);
    const away = (each) => (offBy(state, each) === null ? "" : `, off by ${percent(offBy(state, each))}`);
    const sentence = found.map((each) => `${viewName(state, each.other)} ${verdict(state, each)}${away(each)}`).join("; ");
    speaking = setTimeout(() => (byName("live").textContent = `${what}${more}. ${sentence}.`), 250);
  }

  // --- every layer and timestep at once -------------------------------------------------------------------------------

  let matrix = null; // its cells, by model, timestep and layer; made once for a scene
  async function matrixCells(state) {
    const of = (model, n) => Promise.all(model.layers.map((layer) =>
      store.verdicts({ ...state, model: n, layer: layer.layer }, layer, store.askedAt(layer, state.x, state.y))));
    return Promise.all(data.models.map(of));
  }
  function drawMatrix(state, cells) {
    if (!matrix) matrix = makeMatrix();
    const focused = byName("matrix").contains(document.activeElement);
    for (const { button, model, layer, n, time, t } of matrix) {
      const kinds = cells[model][n][time], here = model === state.model && t === state.t && layer === state.layer;
      const words = kinds ? kinds.map((kind, k) => `${viewName(state, k < state.view ? k : k + 1)} ${kind}`).join(", ") : "left out";
      const label = `layer ${layer}, t ${t}: ${words}`, signs = (kinds || []).map((kind) => element("span", { class: kind, "aria-hidden": "true" }, SIGNS[kind]));
      if (button.getAttribute("aria-label") !== label) button.replaceChildren(...signs);
      button.setAttribute("aria-label", label);
      button.setAttribute("aria-pressed", String(here));
      button.tabIndex = here ? 0 : -1;
      button.disabled = !kinds;
      if (here && focused) button.focus();
    }
  }
  function makeMatrix() {
    const table = byName("matrix"), made = [];
    const bodies = data.models.map((model, m) => {
      const title = element("tr", {}, element("th", { colspan: model.layers.length + 1, class: "model", scope: "rowgroup" }, model.name));
      const names = model.layers.map(({ layer, place }) => element("th", { scope: "col", title: place }, `${layer}`));
      const lines = model.timesteps.map((t, time) => element("tr", {}, element("th", { scope: "row" }, `${t}`), ...model.layers.map(({ layer }, n) => {
        const button = element("button", { type: "button" });
        button.addEventListener("click", () => choose({ model: m, layer, t }));
        button.addEventListener("keydown", moveInMatrix);
        made.push({ button, model: m, layer, n, time, t });
        return element("td", {}, button);
      })));
      return element("tbody", {}, ...(data.models.length > 1 ? [title] : []), element("tr", {}, element("th", { scope: "col" }, "t"), ...names), ...lines);
    });
    table.replaceChildren(table.caption, ...bodies);
    return made;
  }
  function moveInMatrix(event) {
    const [down, across] = explorerTools.STEPS[event.key] || [];
    if (down === undefined) return;
    event.preventDefault();
    const cell = event.target.closest("td"), rows = [...byName("matrix").rows].filter((row) => row.querySelector("td"));
    const row = rows[store.clamp(rows.indexOf(cell.parentNode) + down, rows.length - 1)];
    const button = row.cells[store.clamp(cell.cellIndex + across, row.cells.length - 1) || 1]?.querySelector("button");
    if (button && !button.disabled) button.click();
  }

  /** Gather all that is shown of a state, and draw it if it is still wanted. */
  async function draw(state, brush, stillWanted) {
    const place = store.askedAt(store.shown(state), state.x, state.y);
    const [found, cells] = await Promise.all([store.look(state, place, brush), data.judged ? matrixCells(state) : null]);
    if (!stillWanted()) return;
    drawQuery(state, place, brush);
    for (const each of found) drawFound(state, each, together(place, brush));
    readOut(state, found, place, brush);
    if (cells) drawMatrix(state, cells);
  }
  return { layOut, draw };
};
