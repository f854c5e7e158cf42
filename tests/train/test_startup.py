"""Commands parse their flags before they import anything heavy, so that help and mistakes answer at once."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "accelerate", "transformers", "pandas", "matplotlib", "cv2", "numpy", "probe.models")
COMMANDS = ("cameo", "evaluate", "study", "ship")


def run_and_list_imports(command: str, *flags: str) -> tuple[int, str, set[str]]:
    program = (
        "import atexit, runpy, sys\n"
        f"sys.argv = ['train.{command}', *{flags!r}]\n"
        f"atexit.register(lambda: print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr))\n"
        f"runpy.run_module('train.{command}', run_name='__main__')"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    *lines, heavy = process.stderr.splitlines()
    return process.returncode, process.stdout + "\n".join(lines), set(heavy.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command: str):
    code, shown, heavy = run_and_list_imports(command, "--help")
    assert code == 0
    assert f"python -m train.{command}" in shown
    assert heavy == set()


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("cameo", ("--nonsense", "1"), "--nonsense"),
        ("cameo", ("--steps", "0"), "--steps 0: expected at least 1"),
        ("cameo", ("--layer", "auto", "--probe", "/nowhere"), "/nowhere"),
        ("evaluate", ("--scenes", "rgbd:/nowhere"), "there is no /nowhere"),
        ("study", ("--variants", "camel"), "camel is unknown"),
        ("study", ("--scenes", "rgbd:/nowhere"), "there is no /nowhere"),
        ("ship", ("/nowhere", "/nowhere/out"), "/nowhere has no averaged checkpoint"),
    ],
)
def test_mistakes_end_in_one_line_before_anything_heavy_is_imported(command: str, flags: tuple[str, ...], message: str):
    code, shown, heavy = run_and_list_imports(command, *flags)
    assert code == 2
    assert shown.count("\n") == 0
    assert message in shown
    assert heavy == set()
