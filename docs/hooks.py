"""Hooks of mkdocs: the site also shows files that lie outside docs/, at their place in the repository."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SHOWN = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "reports/reference/README.md": "reports/reference/README.md",
    "reports/reference/profile.png": "reports/reference/profile.png",
    "reports/reference/samples.png": "reports/reference/samples.png",
    "reports/reference/paper-long/study.png": "reports/reference/paper-long/study.png",
    "reports/reference/paper/study.png": "reports/reference/paper/study.png",
    "reports/reference/paper/samples.png": "reports/reference/paper/samples.png",
}
"""Files of the repository, and where they are in the site, whose root is docs/ as well."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of SHOWN, and a page of the Python interface for each ``api/MODULE.md`` of the navigation."""
    for path, place in SHOWN.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    (interface,) = (entry["Python interface"] for entry in config.nav if "Python interface" in entry)
    for place in interface:
        module = Path(place).stem
        files.append(File.generated(config, place, content=f"# {module}\n\n::: {module}\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links between docs/ and the rest of the repository point to where the site has the files."""
    if page.file.src_uri.startswith("api/"):
        return markdown
    for before, after in (
        ("](docs/", "]("),
        ("](../../README.md", "](../../index.md"),
        ("](../README.md", "](index.md"),
    ):
        markdown = markdown.replace(before, after)
    return markdown if page.file.src_uri.startswith("reports/") else markdown.replace("](../", "](")
