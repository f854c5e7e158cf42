"""Serve pages on this machine alone and rebuild those whose runs change: ``python -m analysis.report --watch``."""

import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from analysis.building import INDEX, RUNS, build_index, build_report, find_runs
from analysis.policy import CHARSET, FOLDERS, seal
from probe.records import REPORT

LOOPBACK = "127.0.0.1"
PAUSE = 1.0
"""Seconds between two looks at the files."""
RELOAD = FOLDERS[0] / "reload.js"


def page_at(root: Path, target: str) -> Path | None:
    """Return the page that a request asks for.

    Args:
        root: The folder that is served.
        target: Path of the request, such as ``/reports/index.html``.

    Returns:
        An existing HTML file whose real place, behind all links, is in the folder; None for all else: other files,
        hidden ones, and what lies outside.
    """
    parts = [part for part in unquote(urlsplit(target).path).split("/") if part]
    if "\0" in target or any(part.startswith(".") or "\\" in part or "\0" in part for part in parts):
        return None
    path = root.joinpath(*parts)
    inside = path.suffix == ".html" and path.is_file() and path.resolve().is_relative_to(root.resolve())
    return path if inside else None


def live(page: str, stamp: str) -> str:
    """Return a page that loads itself again once its file changes.

    Args:
        page: As it was built.
        stamp: Tells this state of the file from others.

    Raises:
        RuntimeError: If a script of it is not of this version of the package.
    """
    head = page.replace(CHARSET, f'{CHARSET}\n<meta name="stamp" content="{stamp}">', 1)
    before, end, after = head.rpartition("</body>")
    script = f"<script>\n{RELOAD.read_text(encoding='utf-8')}</script>\n"
    return seal(f"{before}{script}{end}{after}", connect="'self'")


class Pages(BaseHTTPRequestHandler):
    """Answer GET for the pages of one folder, and nothing else."""

    def __init__(self, *args: object, root: Path, start: str, **kwargs: object) -> None:
        self.root, self.start = root, start
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer with a page, with its stamp, or with the way to the first page."""
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        if self.headers.get("Host") not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):
            return self.send_error(HTTPStatus.MISDIRECTED_REQUEST)  # another site's name that was led to this machine
        if urlsplit(self.path).path == "/":
            return self._send(HTTPStatus.FOUND, "", Location=self.start)
        path = page_at(self.root, self.path)
        if path is None:
            return self.send_error(HTTPStatus.NOT_FOUND)
        stamp = str(path.stat().st_mtime_ns)
        if urlsplit(self.path).query == "stamp":
            return self._send(HTTPStatus.OK, stamp)
        try:
            text = live(path.read_text(encoding="utf-8"), stamp)
        except (RuntimeError, UnicodeDecodeError):
            return self.send_error(HTTPStatus.CONFLICT, "not a page of this version of the package; build it again")
        return self._send(HTTPStatus.OK, text, kind="text/html")

    def _send(self, status: HTTPStatus, text: str, kind: str = "text/plain", **headers: str) -> None:
        body = text.encode()
        self.send_response(status)
        fixed = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)),
                 "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
                 "Cross-Origin-Resource-Policy": "same-origin",
                 "Content-Security-Policy": "frame-ancestors 'none'"}  # fmt: skip
        for name, value in {**fixed, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Leave requests out of the log."""


def serve(root: Path, start: str, port: int) -> ThreadingHTTPServer:
    """Begin to serve a folder's pages on the loopback address, in a thread of its own.

    Args:
        root: The folder.
        start: Path of the first page, beginning with a slash.
        port: Where to listen; 0 for any that is free.

    Returns:
        The server; ``shutdown`` and ``server_close`` end it.

    Raises:
        OSError: If the port is taken.
    """
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), partial(Pages, root=root, start=start))
    except OSError as error:
        raise OSError(
            f"--port {port}: cannot listen there ({error.strerror}); expected a free one, 0 for any"
        ) from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@dataclass(kw_only=True)
class Fresh:
    """Keeps the pages of a folder's runs, and their index, as new as their files.

    Attributes:
        root: The folder. Its runs are those below its ``runs``, or below itself where there is none.
        seen: What each run's files were when its page was built.
    """

    root: Path
    seen: dict[Path, object] = field(default_factory=dict)

    def look(self) -> list[Path]:
        """Rebuild the pages whose runs changed, then the index.

        Returns:
            Paths of pages that were written. A run that cannot be used is said on standard error, once per change.
        """
        runs = find_runs(self.root / RUNS if (self.root / RUNS).is_dir() else self.root)
        now = {run: _state(run) for run in runs}
        changed = [run for run in runs if now[run] != self.seen.get(run)]
        if not changed and now.keys() == self.seen.keys() and (self.root / INDEX).exists():
            return []
        written = [page for run in changed for page in _built(run)]
        self.seen = now
        return [*written, build_index(runs, self.root / INDEX)]


def _state(run: Path) -> object:
    """Return names, times and sizes of a run's files; its page and what is being written do not count."""
    files = [path for path in run.iterdir() if path.suffix not in (".html", ".part") and not path.name.startswith(".")]
    return tuple(sorted((path.name, *_stat(path)) for path in files))


def _stat(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError:  # gone since it was listed
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


def _built(run: Path) -> list[Path]:
    try:
        return [build_report(run)]
    except (ValueError, OSError) as error:
        print(f"{run / REPORT}: {' '.join(str(error).split())}", file=sys.stderr)
        return []


def watch(root: Path, port: int) -> None:
    """Serve a folder's pages and keep them fresh until Ctrl-C.

    Args:
        root: The folder.
        port: See :func:`serve`.
    """
    server = serve(root, f"/{quote(INDEX.as_posix())}", port)
    fresh = Fresh(root=root)
    try:
        print(f"http://{LOOPBACK}:{server.server_address[1]}/ serves {root.resolve()}; Ctrl-C ends it", flush=True)
        while True:
            for page in fresh.look():
                print(page, flush=True)
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        return
    finally:
        server.shutdown()
        server.server_close()
