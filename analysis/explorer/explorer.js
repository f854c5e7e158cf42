"use strict";
// The explorer in use: its state, the link that holds it, menus, mouse, touch and keys.
(() => {
  const section = document.getElementById("explorer");
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const { element, STEPS } = explorerTools;
  const byName = (name) => section.querySelector(`[data-part="${name}"]`);
  if (typeof DecompressionStream === "undefined") {
    byName("unable").hidden = false;
    return;
  }
  const store = explorerStore(data), { clamp, shown, has, layerOf } = store;
  const drawing = explorerDrawing(section, data, store, { listen, choose: change });

  // --- the state, and the link that holds it --------------------------------------------------------------------------

  const state = { ...data.start, head: "all", x: 0, y: 0, locked: false };
  let preview = null; // a place pointed at but not chosen
  let brush = []; // places of tokens that are asked together with the query
  let painting = false; // whether pointing adds to them, without Shift

  /** Keep the state among what the data holds. */
  function settle() {
    const model = data.models[state.model];
    if (!layerOf(state.model, state.layer)) state.layer = model.selected;
    const there = ({ layer }) => has("together", { ...state, layer });
    if (!there(state)) state.layer = (model.layers.find(there) || model.layers[0]).layer;
    if (!model.timesteps.includes(state.t)) state.t = model.timesteps[Math.floor(model.timesteps.length / 2)];
    if (state.protocol === "ratio") state.head = "all";
    if (state.head !== "all" && !(state.head < shown(state).heads && store.hasHeads(state))) state.head = "all";
    state.view = Math.min(state.view, store.viewsOf(state).length - 1);
  }

  const PREFIX = "#explore:";
  function writeFragment() {
    const words = new URLSearchParams();
    for (const name of ["scene", "model", "layer", "t", "view", "head", "protocol"]) words.set(name, state[name]);
    for (const axis of ["x", "y"]) words.set(axis, state[axis].toFixed(4));
    if (state.locked) words.set("locked", "1");
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
    whole("view", (n) => n in store.viewsOf(state));
    if (["attention", "ratio"].includes(words.get("protocol"))) state.protocol = words.get("protocol");
    state.head = /^\d+$/.test(words.get("head") || "") ? Number(words.get("head")) : "all";
    for (const axis of ["x", "y"]) {
      const value = Number.parseFloat(words.get(axis));
      if (value >= 0 && value <= 1) state[axis] = value;
    }
    state.locked = words.get("locked") === "1";
    const asked = shown(state) ? store.countOf(state) : 0;
    const painted = (words.get("brush") || "").split(".").filter((text) => /^\d+$/.test(text)).map(Number);
    brush = [...new Set(painted)].filter((place) => place < asked);
    return true;
  }

  // --- drawing, once a frame ------------------------------------------------------------------------------------------

  let turn = 0, frame = 0;
  function draw() {
    turn += 1;
    frame = frame || requestAnimationFrame(drawNow);
  }
  async function drawNow() {
    const mine = turn;
    frame = 0;
    await drawing.draw({ ...state, ...preview }, brush, () => mine === turn);
    if (mine === turn) section.dataset.drawn = String(mine);
  }

  // --- menus and buttons ----------------------------------------------------------------------------------------------

  function change(values, { keep = false } = {}) {
    const { scene, layer, view } = state;
    Object.assign(state, values);
    if (state.scene !== scene || state.layer !== layer || state.view !== view) brush = [];
    preview = null;
    settle();
    if (state.scene !== scene) drawing.layOut(state);
    fillChoices();
    if (!keep) writeFragment();
    draw();
  }

  function fillChoices() {
    const model = data.models[state.model], layer = shown(state), heads = store.hasHeads(state);
    fill("scene", data.scenes.map((scene, n) => scene && [n, scene.name]).filter(Boolean));
    fill("model", data.models.map(({ name }, n) => [n, name]));
    fill("layer", model.layers.map(({ layer: n, place, grid }) =>
      [n, `${n} · ${place} · ${grid.join("x")}${data.judged && n === model.selected ? ` (${model.standing})` : ""}`, !has("together", { ...state, layer: n })]));
    fill("t", model.timesteps.map((t) => [t, `${t}`]));
    fill("head", [["all", "all together"], ...Array.from({ length: layer.heads }, (_, n) =>
      [n, heads ? `head ${n}` : `head ${n} (left out at this t)`, state.protocol === "ratio" || !heads])]);
    fill("protocol", [["attention", "attention: highest weight"], ["ratio", "ratio: nearest key"]]);
    byName("scene").closest("label").hidden = data.scenes.filter(Boolean).length < 2;
    for (const part of [byName("model").closest("label"), byName("models")]) part.hidden = data.models.length < 2;
    byName("t").closest("label").hidden = model.timesteps.length < 2;
    byName("protocol").closest("label").hidden = !data.judged;
    showTools();
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
  function showTools() {
    byName("lock").setAttribute("aria-pressed", String(state.locked));
    byName("brush").setAttribute("aria-pressed", String(painting));
    byName("clear").hidden = !brush.length;
  }
  /** Go to the next choice of a menu; heads and models come round. */
  function step(name, by) {
    const menu = byName(name), open = [...menu.options].filter((option) => !option.disabled);
    const next = open.indexOf(menu.selectedOptions[0]) + by, round = name === "head" || name === "model";
    const option = open[round ? (next + open.length) % open.length : clamp(next, open.length - 1)];
    if (option) change({ [name]: option.value === "all" ? "all" : Number(option.value) });
  }

  for (const name of ["scene", "model", "layer", "t", "head", "protocol"]) {
    byName(name).addEventListener("change", ({ target }) => {
      const value = target.value;
      change({ [name]: name === "protocol" || value === "all" ? value : Number(value) });
    });
  }
  byName("lock").addEventListener("click", () => change({ locked: !state.locked }));
  byName("brush").addEventListener("click", () => {
    painting = !painting;
    showTools();
  });
  byName("clear").addEventListener("click", () => paint(null));
  byName("earlier").addEventListener("click", () => step("model", -1));
  byName("later").addEventListener("click", () => step("model", 1));
  byName("link").addEventListener("click", ({ target }) => {
    writeFragment();
    const say = (text) => () => (target.textContent = text);
    navigator.clipboard ? navigator.clipboard.writeText(location.href).then(say("Copied"), say("It is in the address bar")) : say("It is in the address bar")();
  });
  window.addEventListener("hashchange", () => readFragment() && change({}, { keep: true }));

  // --- pointing and keys ----------------------------------------------------------------------------------------------

  function listen(stage, view) {
    const place = (event) => {
      const area = stage.getBoundingClientRect();
      return { x: clamp((event.clientX - area.left) / area.width, 1), y: clamp((event.clientY - area.top) / area.height, 1) };
    };
    const paints = (event) => (event.shiftKey || painting) && view === state.view;
    let dragged = false; // over tokens that are now asked together: the click that ends it changes nothing
    stage.addEventListener("click", (event) => {
      if (paints(event)) return void (dragged || paint(place(event), true));
      const at = place(event), again = view === state.view && tokenOf(at) === tokenOf(state);
      change({ view, ...at, locked: !(again && state.locked) });
    });
    stage.addEventListener("pointerdown", () => (dragged = false));
    stage.addEventListener("pointermove", (event) => {
      if (view !== state.view) return;
      if (paints(event)) return void (event.buttons && (dragged = paint(place(event)) || dragged));
      if (event.pointerType !== "mouse") return void change(place(event)); // a finger that is dragged chooses
      if (state.locked) return;
      preview = place(event);
      draw();
    });
    stage.addEventListener("pointerleave", () => {
      if (!preview) return;
      preview = null;
      draw();
    });
    stage.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !press(event.key, view)) return;
      event.preventDefault();
    });
  }
  const tokenOf = ({ x, y }) => store.askedAt(shown(state), x, y);

  const KEYS = { "[": ["layer", -1], "]": ["layer", 1], ",": ["t", -1], ".": ["t", 1], h: ["head", 1], m: ["model", 1] };
  /** Do what a key in a view means; tell whether it means anything. */
  function press(key, view) {
    if (key === "Enter" || key === " ") change({ view, locked: view === state.view ? !state.locked : true });
    else if (key in STEPS) move(view, ...STEPS[key]);
    else if (key === "b" && view === state.view) paint(state, true);
    else if (key === "Escape" && brush.length) paint(null);
    else if (key === "Escape" && state.locked) change({ locked: false });
    else if (key in KEYS) step(...KEYS[key]);
    else return false;
    return true;
  }
  function move(view, down, across) {
    const [rows, columns] = store.lattice(shown(state)), at = tokenOf(state), row = clamp(Math.floor(at / columns) + down, rows - 1);
    const [x, y] = store.centreAsked(state, row * columns + clamp((at % columns) + across, columns - 1));
    change({ view, x, y });
  }
  /** Add the token at a place to those asked together, or, where it may, take it away; null clears them. Tell if it did. */
  function paint(at, may = false) {
    const place = at && tokenOf(at), there = brush.includes(place);
    if (at && there && !may) return false;
    brush = !at ? [] : there ? brush.filter((one) => one !== place) : [...brush, place];
    preview = null;
    writeFragment();
    showTools();
    draw();
    return true;
  }

  // --- the start ------------------------------------------------------------------------------------------------------

  [state.x, state.y] = store.centreAsked(state, data.start.token);
  const asked = readFragment();
  settle();
  drawing.layOut(state);
  fillChoices();
  byName("live-part").hidden = false;
  for (const part of section.querySelectorAll("[data-judged]")) part.hidden = !data.judged;
  section.classList.add("started");
  drawNow().then(() => asked && section.scrollIntoView());
})();
