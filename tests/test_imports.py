"""The import contract: which package may use which, no circles, nothing imported late but where that is agreed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("probe", "train", "analysis")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
COMMANDS = (
    *("probe.run", "probe.emergence", "probe.truth_quality", "probe.preview", "probe.scenes.preview"),
    *("probe.scenes.fetch", "probe.show", "probe.knockout", "probe.patch", "probe.decode", "probe.plan.__main__"),
)
TRAINING = ("train.cameo", "train.evaluate", "train.study", "train.ship")
BODIES = ("train.training", "train.quality.evaluation", "train.studying.running")
"""What the trainer's commands do: they may call analysis last, for pictures, tables and pages."""
OPTIONAL = (
    "probe.compat",
    "probe.image_quality",
    "probe.baselines.dino",
    "train.loop.trackers",
    "train.trainable",
)
"""Modules that import what may be absent, or must not be imported before they are called."""
LATE = (*COMMANDS, *TRAINING, *BODIES, *OPTIONAL, "analysis.report")
"""Modules that may import inside functions: the commands' edges, which parse flags first, and a few with a reason."""
ALLOWED = {"probe": ("probe",), "train": ("probe", "train"), "analysis": ("analysis", "probe.records")}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_of(path) for path in FILES}


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules of the project that a tree imports; a name imported from a package counts as the module it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in NAMES)
        elif isinstance(node, ast.ImportFrom) and node.module in NAMES:
            full = [f"{node.module}.{name.name}" for name in node.names]
            yield from (name if name in NAMES else node.module for name in full)


TREES = {module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
GRAPH = {name: set(imported(tree)) for name, tree in TREES.items()}


def circle_from(start: str) -> list[str] | None:
    """A way from a module back to itself. A package is not left for its own parts: its surface names them."""
    paths, seen = [[start]], set()
    while paths:
        path = paths.pop()
        for name in GRAPH[path[-1]] - {path[-1]}:
            if name == start:
                return [*path, name]
            if name not in seen:
                seen.add(name)
                paths.append([*path, name])
    return None


def test_no_module_imports_itself_in_a_circle():
    circles = {tuple(sorted(circle)): circle for name in GRAPH if (circle := circle_from(name))}
    assert not circles, "\n".join(" -> ".join(circle) for circle in circles.values())


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_use_what_they_may(package: str):
    wrong = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if name.split(".")[0] == package
        and not any(f"{other}.".startswith(f"{allowed}.") for allowed in ALLOWED[package])
        and not (name in (*COMMANDS, *TRAINING, *BODIES) and other.startswith("analysis."))
    ]
    assert not wrong


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_nothing_is_imported_late_but_by_the_commands():
    late = {
        f"{name}: {ast.unparse(node)}"
        for name, tree in TREES.items()
        if name not in LATE
        for function in functions(tree)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert not late


@pytest.mark.parametrize("command", [*COMMANDS, *TRAINING[:3], "analysis.report"])
def test_commands_parse_their_flags_before_they_import_torch(command: str):
    slow = ("torch", "diffusers", "pandas", "matplotlib", "cv2", "scipy")
    program = (
        f"import sys, {command} as command\n"
        "start = vars(command).get('cli') or command.main\n"
        "try: start(['--help'])\n"
        f"except SystemExit: print([name for name in {slow} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.strip() == "[]"
    assert "usage: python -m" in done.stdout
