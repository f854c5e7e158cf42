"""Command lines: tyro over a frozen dataclass; wrong input ends in one line and exit code 2."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import tyro

Config = TypeVar("Config")
FRAME = re.compile(r"╭.*?╮|[─│╰╯━┃┏┓┗┛]+")  # the top of tyro's box carries a title that the text repeats


def parse(config: type[Config], arguments: list[str] | None = None, *, prog: str) -> Config:
    """Read the command line into a configuration.

    A parse error becomes one line on stderr and exit code 2; ``--help`` prints and exits with 0.
    """
    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught):
            return tyro.cli(config, args=arguments, prog=prog)
    except SystemExit as stop:
        if stop.code not in (0, None):
            words = FRAME.sub(" ", re.sub(r"\x1b\[[0-9;]*m", "", caught.getvalue()))
            print(f"{prog}: {' '.join(words.split())}", file=sys.stderr)
            raise SystemExit(2) from None
        raise


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


def run(main: Callable[[Config], None], config: Config, *, prog: str) -> None:
    """Run a command; what the user can mend (ValueError, OSError) becomes one line on stderr and exit code 2.

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
