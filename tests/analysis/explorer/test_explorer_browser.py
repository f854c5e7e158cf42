"""The explorer in a browser: what it shows, read back by mouse, keys and touch, is what the run's files hold."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import IN_BROWSER
from einops import rearrange
from safetensors.numpy import load_file

from analysis import report
from analysis.explorer.exact import pack_attention
from analysis.explorer.still import attention
from analysis.probing import page as pages
from probe.layers import Layer, ViewLayout
from probe.matching import attention_matches, weights_within_views
from probe.measure.explored import exact_attention, key_views, of_pairs, query_tokens, read_attention
from probe.measure.scene import LayerCall

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
MIDDLE = "#explore:scene=0&view=2&x=.5&y=.5"
TIMEOUT = 120_000  # milliseconds; the machine may be busy
pytestmark = IN_BROWSER


@pytest.fixture(scope="module")
def runs(make_explored: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    plain = make_explored(folder / "plain")
    cameo = make_explored(folder / "cameo", seed=1, model="cameo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "_figures", lambda run: {})
        report.build_report(plain, [cameo])
    return plain, cameo


class Shown:
    """Drive one open page; it must ask the network for nothing and say nothing on the console."""

    def __init__(self, browser: "sync_api.Browser", path: Path, fragment: str = "", **options: object) -> None:
        self.page = browser.new_context(**options).new_page()
        self.page.set_default_timeout(TIMEOUT)
        self.faults: list[str] = []
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self.note)
        self.page.goto(f"file://{path}/report.html{fragment}")
        self.settled()

    def note(self, request: "sync_api.Request") -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.faults.append(request.url)

    def settled(self) -> None:
        """Wait until what is drawn stops changing."""
        drawn = "() => document.querySelector('#explorer').dataset.drawn"
        self.page.wait_for_selector("#explorer[data-drawn]", state="attached")
        before = None
        while before != (before := self.page.evaluate(drawn)):
            self.page.wait_for_timeout(200)

    def stage(self, view: int) -> "sync_api.Locator":
        return self.page.locator("#explorer .stage").nth(view)

    def choose(self, menu: str, value: str) -> None:
        self.page.locator(f"#explorer select[data-part='{menu}']").select_option(value)
        self.settled()

    @property
    def rows(self) -> list[list[str]]:
        rows = self.page.locator("#table-explorer tbody tr")
        return [[cell.replace("\u00a0", " ") for cell in row.locator("th, td").all_inner_texts()] for row in rows.all()]

    @property
    def where(self) -> str:
        return self.page.locator("[data-part='where']").inner_text()


def expected(
    folder: Path, *, layer: int, time: int, view: int, token: int, head: int | None = None, ratio: bool = False
) -> list[list[str]]:
    """Write the read-out from the run's files, slowly."""
    side = {2: 16, 7: 8, 10: 16}[layer]
    file = load_file(folder / "explorer.safetensors")

    def get(name: str, part: object) -> np.ndarray:
        return file[f"{name}/{part}/room-0"]

    def read(name: str) -> np.ndarray:
        if ratio and name in ("token", "right"):
            return get(f"ratio_{name}", layer)[time]
        return get(name, layer)[time] if head is None else get(f"head_{name}", layer)[time, head]

    visible, true = get("visible", f"{side}x{side}"), get("true_xy", f"{side}x{side}")
    counted = get("ratio_kept", layer)[time] if ratio else visible
    rows = []
    for slot, other in enumerate(n for n in range(3) if n != view):
        at = (view, token, slot)
        found = int(read("token")[at])
        off = np.hypot(*((np.array([found % side, found // side]) + 0.5) / side - true[at]))
        away = f"{100 * off:.1f} %" if ratio or visible[at] else "–"
        word = "right" if read("right")[at] else "wrong"
        hidden = "not counted: too ambiguous" if ratio else "not seen here: no truth"
        right, all_ = (int((part & counted)[view, :, slot].sum()) for part in (read("right"), counted))
        share, mass = ((read(name)[at] / 255) ** 2 for name in ("share", "mass"))
        value = [f"{(get('ratio', layer)[time][at] / 255) ** 2:.3f}"] if ratio else []
        rows.append([f"view {other}", word if counted[at] else hidden, away, f"{100 * share:.1f} %",
                     f"{100 * mass:.1f} %", *value, f"{right} of {all_} ({100 * right / all_:.1f} %)"])  # fmt: skip
    return rows


def close(shown: list[list[str]], wanted: list[list[str]]) -> None:
    """Compare words exactly and numbers up to the last digit shown, which a tie may round either way."""
    number = re.compile(r"\d+\.\d+")
    assert [[number.sub("#", cell) for cell in row] for row in shown] == [
        [number.sub("#", cell) for cell in row] for row in wanted
    ]
    values = [[float(x) for row in rows for cell in row for x in number.findall(cell)] for rows in (shown, wanted)]
    np.testing.assert_allclose(*values, atol=0.1001)


def test_mouse_menus_and_models(runs: tuple[Path, Path], browser: "sync_api.Browser"):
    plain, cameo = runs
    shown = Shown(browser, plain, MIDDLE)
    close(shown.rows, expected(plain, layer=10, time=1, view=2, token=int(re.search(r"token (\d+)", shown.where)[1])))
    box = shown.stage(0).bounding_box()
    shown.stage(0).click(position={"x": box["width"] * 5.5 / 16, "y": box["height"] * 3.5 / 16})
    shown.settled()
    assert "token 53 of view 0" in shown.where
    close(shown.rows, expected(plain, layer=10, time=1, view=0, token=53))
    shown.choose("t", "100")
    shown.choose("layer", "2")
    close(shown.rows, expected(plain, layer=2, time=0, view=0, token=53))
    shown.choose("head", "1")
    close(shown.rows, expected(plain, layer=2, time=0, view=0, token=53, head=1))
    shown.choose("model", "1")
    close(shown.rows, expected(cameo, layer=2, time=0, view=0, token=53, head=1))
    shown.choose("protocol", "ratio")
    close(shown.rows, expected(cameo, layer=2, time=0, view=0, token=53, ratio=True))
    shown.choose("protocol", "attention")
    shown.choose("layer", "7")  # a coarser grid: the place stays
    assert "token 10 of view 0" in shown.where
    close(shown.rows, expected(cameo, layer=7, time=0, view=0, token=10))
    assert shown.faults == []


def test_pointing_previews_and_leaving_returns(runs: tuple[Path, Path], browser: "sync_api.Browser"):
    shown = Shown(browser, runs[0], MIDDLE)
    chosen, url = shown.where, shown.page.url
    shown.stage(2).hover(position={"x": 3, "y": 3})
    shown.settled()
    assert "token 0 of view 2" in shown.where
    close(shown.rows, expected(runs[0], layer=10, time=1, view=2, token=0))
    shown.page.locator("#explorer h2").hover()
    shown.settled()
    assert (shown.where, shown.page.url) == (chosen, url)
    assert shown.faults == []


def test_keys_move_switch_and_are_heard(runs: tuple[Path, Path], browser: "sync_api.Browser"):
    shown = Shown(
        browser, runs[0], "#explore:scene=0&model=0&layer=10&t=500&view=1&head=all&protocol=attention&x=0.0&y=0.0"
    )
    shown.page.locator("select[data-part='protocol']").focus()
    for view in range(3):  # in the order of the tab key
        shown.page.keyboard.press("Tab")
        assert shown.stage(view).evaluate("stage => stage === document.activeElement")
    shown.page.keyboard.press("Shift+Tab")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowUp"):
        shown.page.keyboard.press(key)
    shown.settled()
    assert "token 1 of view 1" in shown.where
    close(shown.rows, expected(runs[0], layer=10, time=1, view=1, token=1))
    for key in ("[", ",", "h"):
        shown.page.keyboard.press(key)
    shown.settled()
    assert "layer 7, head 0, t 100" in shown.where
    close(shown.rows, expected(runs[0], layer=7, time=0, view=1, token=0, head=0))
    shown.page.wait_for_timeout(600)
    live = shown.page.locator("[data-part='live']")
    assert live.get_attribute("aria-live") == "polite"
    for name, verdict, *_ in shown.rows:
        assert f"{name} {verdict}" in live.inner_text()
    label = shown.stage(1).get_attribute("aria-label")
    assert label == "View 1, target: the query view. Arrow keys move the query token."
    shown.stage(2).focus()  # it has answered so far
    shown.page.keyboard.press("Enter")
    shown.settled()
    asks = shown.page.locator("figure.asks [data-verdict]")
    assert [title.get_attribute("data-verdict") for title in asks.all()] == [""]
    assert shown.faults == []


def test_a_finger_chooses(runs: tuple[Path, Path], browser: "sync_api.Browser"):
    shown = Shown(browser, runs[0], viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    box = shown.stage(0).bounding_box()
    shown.stage(0).tap(position={"x": box["width"] * 8.5 / 16, "y": box["height"] * 2.5 / 16})
    shown.settled()
    assert "token 40 of view 0" in shown.where
    close(shown.rows, expected(runs[0], layer=10, time=1, view=0, token=40))
    assert shown.page.evaluate("document.documentElement.scrollWidth") == 390
    assert shown.faults == []


def test_the_fragment_restores_the_state_and_nonsense_does_no_harm(
    runs: tuple[Path, Path], browser: "sync_api.Browser"
):
    first = Shown(browser, runs[0])
    first.stage(1).click(position={"x": 20, "y": 30})
    first.choose("model", "1")
    first.choose("layer", "7")
    first.choose("head", "2")
    fragment = first.page.url.partition("#")[2]
    second = Shown(browser, runs[0], f"#{fragment}")
    assert (second.where, second.rows) == (first.where, first.rows)
    assert second.page.url.partition("#")[2] == fragment
    nonsense = "#explore:scene=9&model=-1&layer=x&t=3&view=99&head=77&protocol=%3Cb%3E&x=7&y=NaN"
    third, plain = Shown(browser, runs[0], nonsense), Shown(browser, runs[0])
    assert (third.where, third.rows) == (plain.where, plain.rows)
    third.page.evaluate(f"location.hash = {fragment!r}")
    third.settled()
    assert third.where == first.where
    assert [shown.faults for shown in (first, second, third, plain)] == [[]] * 4


def test_the_matrix_agrees_and_switches(runs: tuple[Path, Path], browser: "sync_api.Browser"):
    shown = Shown(
        browser, runs[0], "#explore:scene=0&model=0&layer=10&t=500&view=2&head=all&protocol=attention&x=0.5&y=0.5"
    )
    for number, folder in enumerate(runs):
        for column, (layer, side) in enumerate({2: 16, 7: 8, 10: 16}.items()):
            for time, t in enumerate((100, 500)):
                file, token = load_file(folder / "explorer.safetensors"), side // 2 * (side + 1)
                right = file[f"right/{layer}/room-0"][time, 2, token]
                seen = file[f"visible/{side}x{side}/room-0"][2, token]
                words = ["unseen" if not s else "right" if r else "wrong" for s, r in zip(seen, right, strict=True)]
                button = shown.page.locator("[data-part='matrix'] button").nth((number * 2 + time) * 3 + column)
                label = f"layer {layer}, t {t}: view 0 {words[0]}, view 1 {words[1]}"
                assert button.get_attribute("aria-label") == label
    shown.page.locator("[data-part='matrix'] [tabindex='0']").focus()
    for key in ("ArrowLeft", "ArrowDown"):  # to layer 7, then to the other model
        shown.page.keyboard.press(key)
        shown.settled()
    assert "cameo (cameo), layer 7, all heads, t 100" in shown.where
    close(shown.rows, expected(runs[1], layer=7, time=0, view=2, token=36))
    assert shown.page.locator("[data-part='matrix'] [aria-pressed='true']").count() == 1
    assert shown.faults == []


def test_print_shows_the_still_picture(runs: tuple[Path, Path], browser: "sync_api.Browser"):
    shown = Shown(browser, runs[0])
    still, live = (shown.page.locator(f".explorer-{name}") for name in ("still", "live"))
    assert (still.is_visible(), live.is_visible()) == (False, True)
    shown.page.emulate_media(media="print")
    assert (still.is_visible(), live.is_visible()) == (True, False)
    quiet = browser.new_context(java_script_enabled=False).new_page()
    quiet.goto(f"file://{runs[0]}/report.html")
    assert quiet.locator(".explorer-still").is_visible()
    assert not quiet.locator(".explorer-live").is_visible()


READ = """async ([text, size, asks]) => {
  const parts = explorerAttention.parse(await explorerTools.inflate(text), size);
  return asks.map(([view, place, head]) => ({
    weights: [...explorerAttention.weights(parts, view, place, head)],
    matches: head === "all" ? null : explorerAttention.matches(parts, view, place, head),
  }));
}"""


@pytest.mark.parametrize("grid", [(5, 7), (8, 8), (17, 20)])
def test_attention_in_the_browser_is_that_of_the_scores(
    grid: tuple[int, int], runs: tuple[Path, Path], browser: "sync_api.Browser"
):
    views, heads, channels, scale = 3, 2, 16, 0.25
    tokens, asked = grid[0] * grid[1], query_tokens(grid)
    random = torch.Generator().manual_seed(tokens)
    q, k = (2 * torch.randn(1, heads, views * tokens + 9, channels, generator=random) for _ in range(2))
    layout = ViewLayout(views=views, grid=grid, prefix=9)  # nine tokens of text come first
    found = attention_matches(q, k, scale, layout, torch.full((1, views, tokens, views), -1))
    token = of_pairs(found.token[0], [0, 1, 2], asked).numpy()
    layer = Layer(index=0, name="joint", grid=grid, heads=heads, kind="joint")
    call = LayerCall(layer=layer, layout=layout, q=q, k=k, scale=scale, model="planted", step=-1, timestep=500)
    _, coded = read_attention(q, k, scale, layout, [0, 1, 2])
    kept = {name: value.numpy() for name, value in exact_attention(call, [0, 1, 2]).items()}
    text = pack_attention(
        **{name: value.astype(np.float32) for name, value in kept.items()},
        within=coded["within"].numpy(), columns=(min(16, grid[1]), grid[1]),
        token=token[1:].astype(np.uint16), right=token[1:] < 0,
    )  # fmt: skip
    size = {"views": views, "heads": heads, "asked": len(asked), "askedColumns": min(16, grid[1]),
            "tokens": tokens, "columns": grid[1]}  # fmt: skip
    asks = [(view, place, head) for view in range(views) for place in range(len(asked)) for head in ("all", 0, 1)]
    shown = Shown(browser, runs[0])
    read = shown.page.evaluate(READ, [text, size, asks])
    of_others = key_views([0, 1, 2]).numpy()
    weights = torch.cat([part[0] for part, _ in weights_within_views(q, k, scale, layout)], 1)
    share = torch.cat([part[0] for _, part in weights_within_views(q, k, scale, layout)], 1)
    exact = rearrange(weights * share[..., None], "row (f n) fk m -> row f n (fk m)", f=views)[:, :, asked].numpy()
    same = []
    for (view, place, head), each in zip(asks, read, strict=True):
        row = 0 if head == "all" else head + 1
        np.testing.assert_allclose(each["weights"], exact[row, view, place], rtol=0.1, atol=1e-6)
        if row:
            same += [n == m for n, m in zip(each["matches"], token[row, view, place], strict=True)]
        else:
            inside = np.reshape(each["weights"], (views, tokens))[of_others[view]]
            best = inside.argmax(-1) == token[0, view, place]
            near = inside[[0, 1], token[0, view, place]] > 0.95 * inside.max(-1)
            assert (best | near).all()
    assert np.mean(same) >= 0.999, f"{np.mean(same):.4f} of {len(same)} matches of single heads"
    assert not shown.faults


def test_matches_of_single_heads_are_those_of_the_run(runs: tuple[Path, Path], browser: "sync_api.Browser"):
    file, place = load_file(runs[0] / "explorer.safetensors"), 53
    for head in (0, 1):
        shown = Shown(
            browser, runs[0], f"#explore:scene=0&layer=10&t=500&view=0&x=.34&y=.2&head={head}&protocol=attention"
        )
        assert f"head {head}, t 500: token {place} of view 0" in shown.where
        true, visible = (file[f"{name}/16x16/room-0"][0, place] for name in ("true_xy", "visible"))
        token, right = (file[f"head_{name}/10/room-0"][1, head, 0, place] for name in ("token", "right"))
        away = np.hypot((token % 16 + 0.5) / 16 - true[:, 0], (token // 16 + 0.5) / 16 - true[:, 1])
        for slot, row in enumerate(shown.rows):
            hidden = "not seen here: no truth"
            assert row[1] == (hidden if not visible[slot] else "right" if right[slot] else "wrong")
            assert row[2] == (f"{100 * away[slot]:.1f} %" if visible[slot] else "–")
            counted, both = file["visible/16x16/room-0"][0, :, slot], file["head_right/10/room-0"][1, head, 0, :, slot]
            assert row[-1].startswith(f"{int((counted & both).sum())} of {int(counted.sum())} ")
        masses = [float(row[4].removesuffix(" %")) for row in shown.rows]
        assert 20 < sum(masses) < 83.4  # a sixth falls on views that are not kept, the rest on three views
        assert not shown.faults


def test_a_locked_query_stays_until_it_is_clicked_again(runs: tuple[Path, Path], browser: "sync_api.Browser"):
    shown = Shown(browser, runs[0], MIDDLE)
    box, lock = shown.stage(2).bounding_box(), shown.page.locator("[data-part='lock']")
    at = {"x": box["width"] * 5.5 / 16, "y": box["height"] * 3.5 / 16}
    shown.stage(2).click(position=at)
    shown.settled()
    assert lock.get_attribute("aria-pressed") == "true"
    shown.stage(2).hover(position={"x": 3, "y": 3})
    shown.settled()
    assert "token 53 of view 2" in shown.where
    again = Shown(browser, runs[0], shown.page.evaluate("location.hash"))
    assert again.page.locator("figure.locked").count() == 1
    assert again.where == shown.where
    shown.stage(2).click(position=at)
    shown.stage(2).hover(position={"x": 3, "y": 3})
    shown.settled()
    assert "token 0 of view 2" in shown.where
    shown.stage(2).press("Enter")
    assert lock.get_attribute("aria-pressed") == "true"
    shown.stage(2).press("Escape")
    assert lock.get_attribute("aria-pressed") == "false"
    assert not [*shown.faults, *again.faults]


def test_arrows_change_the_model(runs: tuple[Path, Path], browser: "sync_api.Browser"):
    shown = Shown(browser, runs[0], MIDDLE)
    names = []
    for label in ("Next model", "Next model", "Previous model"):
        shown.page.get_by_label(label).click()
        shown.settled()
        names.append(shown.where.partition(",")[0])
    assert names == ["cameo (cameo)", "tiny (plain)", "cameo (cameo)"]
    assert not shown.faults


def test_dragging_asks_several_tokens(runs: tuple[Path, Path], browser: "sync_api.Browser"):
    shown = Shown(browser, runs[0], MIDDLE)
    shown.page.locator("[data-part='brush']").click()
    shown.stage(2).scroll_into_view_if_needed()
    box = shown.stage(2).bounding_box()
    x, y, cell = box["x"], box["y"] + box["height"] / 2, box["width"] / 16
    shown.page.mouse.move(x + 2.5 * cell, y)
    shown.page.mouse.down()
    for n in (3.5, 4.5, 5.5):
        shown.page.mouse.move(x + n * cell, y, steps=3)
    shown.page.mouse.up()
    shown.settled()
    assert shown.page.locator("#explorer .brushed").count() in (3, 4)
    assert "shaded and marked: the mean of" in shown.where
    shown.page.locator("[data-part='clear']").click()
    shown.settled()
    assert shown.page.locator("#explorer .brushed").count() == 0
    assert not shown.faults


def strongest_of_mean(folder: Path, places: list[int], *, view: int, other: int) -> int:
    """Return the token of a view on which the mean attention of several, each over its weight there, is highest."""
    file = load_file(folder / "explorer.safetensors")
    q, k, share = (file[f"{name}/10/room-0"][1].astype(np.float32) for name in ("q", "k", "within"))
    inside = [attention(q, k, share, view=view, token=place)[other] for place in places]
    return int(np.mean([weights / weights.sum() for weights in inside], axis=0).argmax())


def test_several_tokens_are_asked_together_and_a_link_holds_them(runs: tuple[Path, Path], browser: "sync_api.Browser"):
    shown = Shown(browser, runs[0], "#explore:scene=0&layer=10&t=500&view=2&x=.5&y=.5&head=all&protocol=attention")
    shown.stage(2).press("b")
    shown.settled()
    for _ in range(2):
        shown.stage(2).press("ArrowRight")
    shown.stage(2).press("b")
    shown.settled()
    assert shown.page.locator("#explorer .brushed").count() == 2
    assert "the mean of 2 tokens; the numbers below are of this token alone" in shown.where
    fragment = shown.page.evaluate("location.hash")
    assert re.search(r"brush=\d+\.\d+", fragment)
    again = Shown(browser, runs[0], fragment)
    assert again.page.locator("#explorer .brushed").count() == 2
    places = [int(place) for place in re.search(r"brush=(\d+)\.(\d+)", fragment).groups()]
    for other in (0, 1):
        panel = again.page.locator("#explorer .answers").nth(other)
        assert panel.locator("strong").inner_text() == f"view {other}: mean of 2 tokens"
        assert panel.locator("strong").get_attribute("data-verdict") == ""
        assert panel.locator(":is(.true, .line, .runner, .match-right, .match-wrong)").count() == 0
        best = strongest_of_mean(runs[0], places, view=2, other=other)
        mark = panel.locator("circle.match-open")
        at = [float(mark.get_attribute(name)) * 0.16 - 0.5 for name in ("cx", "cy")]
        assert at == pytest.approx([best % 16, best // 16])
    assert again.page.locator("#table-explorer.alone").count() == 1
    again.stage(2).press("Escape")
    again.settled()
    assert again.page.locator("#explorer .brushed").count() == 0
    assert not [*shown.faults, *again.faults]
