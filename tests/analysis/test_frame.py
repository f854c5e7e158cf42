"""A page in a notebook's cell."""

from html import unescape
from pathlib import Path

from analysis.frame import PageFrame


def test_the_frame_holds_the_page_and_nothing_of_it_leaves_the_attribute(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text('<p title="x">&lt;b&gt;"</p><script>1 < 2</script>', encoding="utf-8")
    html = PageFrame(page, height=10)._repr_html_()
    start = html.index('srcdoc="') + len('srcdoc="')
    inside = html[start : html.index('"', start)]
    assert unescape(inside) == page.read_text(encoding="utf-8")
    assert html.endswith('"></iframe>')
    assert "<script" not in html
