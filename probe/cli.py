"""Command lines: tyro over a frozen dataclass; wrong input ends in one line and exit code 2."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import docstring_parser
import tyro
from rich.console import Console
from rich.table import Table

from probe.scenes.names import GENERATED
from probe.scenes.reading import split_detail

Config = TypeVar("Config")
FRAME = re.compile(r"╭.*?╮|[─│╰╯━┃┏┓┗┛]+")  # the top of tyro's box carries a title that the text repeats


def parse(
    config: type[Config],
    arguments: list[str] | None = None,
    *,
    prog: str,
    defaults: Mapping[str, Any] | None = None,
    choices: Mapping[str, str] | None = None,
) -> Config:
    """Read the command line into a configuration.

    A parse error becomes one line on stderr and exit code 2; ``--help`` prints and exits with 0.

    Args:
        config: A dataclass; the text below a field is its help.
        arguments: Words of the command line; None for this process's.
        prog: The command, for messages.
        defaults: Of fields, in place of the configuration's own.
        choices: What stands for ``{name}`` in the help, such as the names of a registry.
    """
    let_idle_threads_sleep()
    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught):
            described = _with_help(config, choices or {})
            preset = {"default": described(**defaults)} if defaults else {}
            parsed = tyro.cli(described, args=arguments, prog=prog, **preset)
    except SystemExit as stop:
        if stop.code not in (0, None):
            words = FRAME.sub(" ", re.sub(r"\x1b\[[0-9;]*m", "", caught.getvalue()))
            print(f"{prog}: {' '.join(words.split())}", file=sys.stderr)
            raise SystemExit(2) from None
        raise
    return config(**{field.name: getattr(parsed, field.name) for field in fields(config)})  # type: ignore[arg-type]


def let_idle_threads_sleep() -> None:
    """Let threads of OpenMP that wait for work sleep, unless the user says otherwise; before torch is imported.

    They spin by default: on a busy machine a small network then takes 20 times the processor time, for the same bits.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _with_help(config: type[Any], choices: Mapping[str, str]) -> type[Any]:
    """Return the configuration with its help as flowing text: tyro keeps the line breaks of the source."""
    texts = {x.arg_name: x.description or "" for kind in config.__mro__[::-1] for x in _documented(kind)}
    hints = get_type_hints(config, include_extras=True)
    shared = {name for kind in config.__mro__[1:] for name in getattr(kind, "__dataclass_fields__", ())}
    ordered = sorted(fields(config), key=lambda field: field.name in shared)  # what commands share comes last
    described = [(x.name, _described(hints[x.name], texts.get(x.name), choices), x) for x in ordered]
    made = make_dataclass(config.__name__, described, frozen=True, kw_only=True)
    made.__doc__ = _flow((config.__doc__ or "").split("\n\n")[0], choices)
    return made


def _described(hint: Any, text: str | None, choices: Mapping[str, str]) -> Any:
    """Add a help text to a type; one without a text below its field has its help in the type already."""
    return hint if text is None else Annotated[hint, tyro.conf.arg(help=_flow(text, choices))]


def _documented(kind: type[Any]) -> list[docstring_parser.DocstringParam]:
    return docstring_parser.parse_from_object(kind).params if "__dataclass_fields__" in vars(kind) else []


def _flow(text: str, choices: Mapping[str, str]) -> str:
    """Join the lines of a text, and put choices in their places."""
    for name, words in choices.items():
        text = text.replace(f"{{{name}}}", words)
    return " ".join(text.split())


@contextlib.contextmanager
def flag(name: str) -> Iterator[None]:
    """Put a flag's name before the message of an error that its value caused: library functions know no flags.

    Args:
        name: As typed, such as "--timesteps".
    """
    try:
        yield
    except ValueError as error:
        raise type(error)(f"{name} {error}") from error


def check_scenes(spec: str) -> None:
    """Refuse scenes whose folder is missing, before anything slow is imported.

    Args:
        spec: NAME, NAME:FOLDER or NAME:FOLDER#DETAILS.

    Raises:
        ValueError: If there is no such file or folder.
    """
    name, _, root = spec.partition(":")
    if name not in (*GENERATED, "module") and root:
        _check_exists(spec, split_detail(Path(root))[0])


def check_model(spec: str) -> None:
    """Refuse a model whose folder is missing; what looks like a hub id (OWNER/NAME) or a variant's name passes.

    Raises:
        ValueError: If there is no such file or folder.
    """
    name, _, source = spec.partition(":")
    is_path = source.startswith((".", "~", "/")) or source.count("/") > 1
    if name != "module" and is_path:
        _check_exists(spec, Path(source).expanduser())


def _check_exists(spec: str, path: Path) -> None:
    if not path.exists():
        raise ValueError(f"{spec}: there is no {path}; give one that exists (now in {Path.cwd()})")


def run(main: Callable[[Config], None], config: Config, *, prog: str) -> None:
    """Run a command; errors the user can fix (ValueError, OSError) become one line on stderr and exit code 2.

    Ctrl-C becomes one line and exit code 130, as shells have it.
    """
    try:
        main(config)
    except (ValueError, OSError) as error:
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"\n{prog}: stopped", file=sys.stderr)
        raise SystemExit(130) from None


def show_table(console: Console, title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of numbers.

    Args:
        console: To print on.
        title: Above it.
        headings: Of its columns.
        rows: Cells as text.
    """
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="right")
    for cells in rows:
        table.add_row(*cells)
    console.print(table)
