"""Time that the match explorer takes to follow a pointer, in Chromium: python benchmarks/explorer_speed.py REPORT.html

Moves over the query view 120 times; a move is done when all views are drawn again. Prints milliseconds a move (median,
95th percentile, most), and of one query token's weights in the start layer alone.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

MOVES = """async () => {
  const section = document.getElementById("explorer"), asks = section.querySelector("figure.asks .stage");
  const area = asks.getBoundingClientRect(), times = [];
  for (let n = 0; n < 120; n++) {
    const before = section.dataset.drawn, started = performance.now();
    const at = { clientX: area.left + (area.width * ((n * 7) % 100)) / 100, clientY: area.top + (area.height * ((n * 13) % 100)) / 100 };
    asks.dispatchEvent(new PointerEvent("pointermove", { ...at, pointerType: "mouse", bubbles: true }));
    while (section.dataset.drawn === before) await new Promise((done) => setTimeout(done, 0));
    times.push(performance.now() - started);
    await new Promise((done) => requestAnimationFrame(done));
  }
  return times.sort((a, b) => a - b);
}"""  # noqa: E501


def main(page: Path) -> None:
    """Open a page, move, and print."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 1100})
        tab.goto(f"file://{page.resolve()}")
        tab.wait_for_function("() => document.getElementById('explorer').dataset.drawn")
        times = tab.evaluate(MOVES)
        browser.close()
    print(f"milliseconds a move: median {times[60]:.1f}, 95th percentile {times[114]:.1f}, most {times[-1]:.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
