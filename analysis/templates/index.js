"use strict";
/* The index: columns sort the runs of each group, and groups by their first, a word filters the runs, two ticked runs give the command that compares. */
(() => {
  const number = (text) => {
    const digits = text.replace(/\u2212/g, "-").replace(/[\u00a0\u202f\s]/g, "").match(/^[+-]?\d+(\.\d+)?/);
    return digits ? Number(digits[0]) : NaN;
  };
  const order = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (Number.isNaN(x) && Number.isNaN(y)) return a.localeCompare(b, "en", { numeric: true });
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
    return x - y;
  };
  const rowsOf = (part) => [...part.rows].filter((row) => !row.classList.contains("group"));

  for (const table of document.querySelectorAll("table.runs")) {
    for (const heading of table.tHead.rows[0].cells) {
      if (heading.dataset.still !== undefined) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const falls = heading.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", falls ? "descending" : "ascending");
        const text = (row) => row.cells[heading.cellIndex].textContent.trim();
        const compare = (a, b) => (falls ? order(text(b), text(a)) : order(text(a), text(b)));
        const parts = [...table.tBodies];
        for (const part of parts) part.append(...rowsOf(part).sort(compare));
        table.append(...parts.sort((a, b) => compare(rowsOf(a)[0], rowsOf(b)[0])));
      });
    }
  }

  const tools = document.querySelector("[data-part='tools']");
  const filter = tools.querySelector("input");
  const said = tools.querySelector("[role='status']");
  tools.hidden = false;
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    let all = 0;
    for (const part of document.querySelectorAll("table.runs tbody")) {
      const group = part.querySelector(".group")?.textContent ?? "";
      const rows = rowsOf(part);
      for (const row of rows) {
        const text = `${group} ${row.textContent}`.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      all += rows.length;
      part.hidden = rows.every((row) => row.hidden);
    }
    said.textContent = words.length ? `${shown} of ${all} runs` : "";
  });

  const bar = document.querySelector("[data-part='compare']");
  const code = bar.querySelector("code");
  let ticked = [];
  for (const row of document.querySelectorAll("tr[data-run]")) {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.setAttribute("aria-label", `Compare ${row.querySelector("a").textContent}`);
    row.querySelector("th").prepend(box);
    box.addEventListener("change", () => {
      const kind = row.closest("table").id;
      const stay = ticked.filter(([other, of]) => other !== box && of === kind);
      const now = box.checked ? [...stay, [box, kind, row.dataset.run]] : stay;
      ticked = now.slice(-2);
      for (const other of document.querySelectorAll("tr[data-run] input")) other.checked = ticked.some(([one]) => one === other);
      bar.hidden = ticked.length === 0;
      bar.dataset.ready = ticked.length === 2;
      code.textContent = ticked.length === 2
        ? `python -m analysis.report --compare ${ticked[0][2]} ${ticked[1][2]}`
        : "Tick a second run of the same table to compare the two.";
    });
  }
})();
