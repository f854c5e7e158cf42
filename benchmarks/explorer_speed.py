"""Time that the match explorer takes to follow a pointer, in Chromium: python benchmarks/explorer_speed.py REPORT.html

Prints milliseconds to compute the attention of one query token (selected layer, all heads), milliseconds a move over
the query view until all views are drawn again (median, 95th percentile, most; of 200 moves), and the frames drawn in a
second in which every frame moves.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WEIGHTS = """async () => {
  const data = JSON.parse(document.getElementById("explorer-data").textContent), { scene, model, layer, t } = data.start;
  const { heads, grid } = data.models[model].layers.find((each) => each.layer === layer);
  const key = ["exact", scene, model, layer, data.models[model].timesteps.indexOf(t)].join("/");
  const asked = data.scenes[scene].grids[grid.join("x")].asked.length, tokens = grid[0] * grid[1];
  const size = { views: data.scenes[scene].views.length, heads, asked, askedColumns: Math.min(16, grid[1]), tokens, columns: grid[1] };
  const raw = await explorerTools.inflate(data.blocks[key]), begun = performance.now(), parts = explorerAttention.parse(raw, size);
  const parsed = performance.now();
  for (let place = 0; place < asked; place++) explorerAttention.weights(parts, 0, place, "all");
  return [parsed - begun, (performance.now() - parsed) / asked];
}"""  # noqa: E501
MOVES = """async () => {
  const section = document.getElementById("explorer"), asks = section.querySelector("figure.asks .stage"), times = [];
  const area = asks.getBoundingClientRect(), later = window.requestAnimationFrame.bind(window);
  const move = (n) => {
    const at = { clientX: area.left + (area.width * ((n * 7) % 100)) / 100, clientY: area.top + (area.height * ((n * 13) % 100)) / 100 };
    asks.dispatchEvent(new PointerEvent("pointermove", { ...at, pointerType: "mouse", bubbles: true }));
  };
  window.requestAnimationFrame = (call) => (queueMicrotask(call), 0); // the wait for a frame is no work
  for (let n = 0; n < 200; n++) {
    const before = section.dataset.drawn, begun = performance.now();
    move(n);
    while (section.dataset.drawn === before) await null;
    section.getBoundingClientRect(); // lay it out
    times.push(performance.now() - begun);
    await new Promise(later);
  }
  window.requestAnimationFrame = later;
  let drawn = 0;
  new MutationObserver(() => drawn++).observe(section, { attributeFilter: ["data-drawn"] });
  const begun = performance.now();
  for (let n = 0; performance.now() - begun < 2000; n++) {
    move(n);
    await new Promise(later);
  }
  return [times.sort((a, b) => a - b), (1000 * drawn) / (performance.now() - begun)];
}"""  # noqa: E501


def main(page: Path) -> None:
    """Open a page, move, and print."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 1100})
        tab.goto(f"file://{page.resolve()}")
        tab.wait_for_function("() => document.getElementById('explorer').dataset.drawn")
        times, frames = tab.evaluate(MOVES)
        parsed, token = tab.evaluate(WEIGHTS)
        browser.close()
    print(f"attention: {token:.2f} ms a token, {parsed:.1f} ms to unpack a layer")
    print(f"a move: median {times[100]:.1f} ms, 95th percentile {times[190]:.1f}, most {times[-1]:.1f}")
    print(f"{frames:.0f} frames a second")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
