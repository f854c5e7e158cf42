"""Feed damaged and hostile files to whatever reads files: ``python benchmarks/hostile.py --inputs 5000``; Linux.

Checkpoints of every model by name, run folders of every kind, view lists, and flags, each damaged once: bytes, values,
words, lies in headers, deep nesting, code in pickles, names that lead elsewhere. Each input is read in a process of its
own (a fork), with a limit of memory and time. Whatever is refused must be refused by an error that the command lines
turn into one line; nothing may run, hang, crash, or appear outside its folder.
"""

import contextlib
import io
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pandas as pd
import tyro

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "helpers")]
SECONDS, MEMORY = 60, 6 * 2**30
"""Limits of one input: of processor time on a busy machine, and of address space beyond what is loaded already."""
CANARY = "hostile-canary"


@dataclass(frozen=True, kw_only=True)
class Fuzz:
    """Say how much is tried."""

    inputs: int = 5000
    """Damaged inputs in all."""
    kinds: str = "weights,runs,lists,flags"
    """What is damaged, separated by commas."""
    seed: int = 0
    """Of the damages."""


# --- lies ------------------------------------------------------------------------------------------------------------


class Payload:
    """What a pickle would run: it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.canary),)


def lie(path: Path, random: Random, canary: Path) -> str:
    """Write what no broken disk would."""
    data = path.read_bytes()
    if path.suffix == ".safetensors" and len(data) > 8:
        return _lie_in_safetensors(path, data, random)
    if path.suffix in (".pt", ".ckpt", ".bin", ".pth"):
        path.write_bytes(pickle.dumps({"state_dict": Payload(canary)}))
        return "a pickle that makes a folder"
    if path.suffix in (".json", ".jsonl"):
        html = data.decode(errors="replace").replace('": "', '": "<script>alert(1)</script>')
        texts = {"deep": "[" * 200_000, "long": '{"a": "' + "x" * 20_000_000 + '"}', "html": html}
        kind = random.choice(list(texts))
        path.write_text(texts[kind])
        return kind
    path.unlink()
    path.symlink_to(random.choice(("/etc/passwd", "/dev/zero", "/proc/self/mem", str(path), "..")))
    return f"a link to {path.readlink()}"


def _lie_in_safetensors(path: Path, data: bytes, random: Random) -> str:
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    kind = random.choice(("length", "shape", "offsets", "overlap", "type", "name"))
    names = [name for name in header if name != "__metadata__"]
    name = random.choice(names)
    if kind == "length":
        path.write_bytes(struct.pack("<Q", 2 ** random.choice((32, 40, 62))) + data[8:])
        return kind
    if kind == "shape":
        header[name]["shape"] = [2**40, 2**10]
    elif kind == "offsets":
        header[name]["data_offsets"] = [0, 2**50]
    elif kind == "overlap":
        header[name]["data_offsets"] = header[random.choice(names)]["data_offsets"]
    elif kind == "type":
        header[name]["dtype"] = random.choice(("F4", "U64", "BOOL", "F8_E4M3", "C64"))
    else:
        header["../" * 8 + "tmp/" + CANARY] = header.pop(name)
    words = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(words)) + words + data[8 + size :])
    return kind


def damage(path: Path, case: str, random: Random, canary: Path) -> str:
    """Damage a file in one of three ways; tell how."""
    from damage import damage_file

    kind = random.random()
    if case.startswith("run") and path.suffix in (".json", ".csv") and kind < 0.4:
        return mark_up(path, random)
    return lie(path, random, canary) if kind < 0.25 and case != "flags" else damage_file(path, random)


MARKUP = "</script><img src=x onerror=alert(1)>"


def mark_up(path: Path, random: Random) -> str:
    """Append markup to one text of a JSON file or of a table."""
    if path.suffix == ".json":
        value = json.loads(path.read_text())
        holders = [(value, key) for key in value if isinstance(value[key], str)]
        holders += [(inner, key) for inner in value.values() if isinstance(inner, dict) for key in inner]
        holder, key = random.choice([(holder, key) for holder, key in holders if isinstance(holder[key], str)])
        holder[key] += MARKUP
        path.write_text(json.dumps(value))
        return f"markup in {key}"
    table = pd.read_csv(path)
    column = random.choice([name for name in table if table[name].map(lambda cell: isinstance(cell, str)).all()])
    row = random.randrange(len(table))
    table[column] = table[column].where(table[column] != table[column][row], table[column] + MARKUP)
    table.to_csv(path, index=False)
    return f"markup in {column} of line {row}"


def checked(build: Callable[[Path], Path]) -> Callable[[Path], object]:
    """Return what builds a page and finds no markup of the run's in it."""

    def use(copy: Path) -> object:
        page = build(copy)
        if MARKUP in page.read_text():
            raise RuntimeError("the page holds the markup of its run")
        return page

    return use


# --- one input -------------------------------------------------------------------------------------------------------


def attempt(use: Callable[[], object]) -> tuple[str, str, float]:
    """Use a damaged input in a fork. Return how that ended (read, refused, or a finding), the words, the seconds."""
    reader, writer = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if not child:
        os.close(reader)
        _in_child(use, writer)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        words = pipe.read()
    status = os.waitpid(child, 0)[1]
    seconds = time.monotonic() - start
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}", words, seconds
    outcome, _, words = words.partition("\n")
    return outcome, words, seconds


def _in_child(use: Callable[[], object], writer: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.alarm(5 * SECONDS)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
            use()
        outcome = "read", ""
    except SystemExit as stop:
        lines = [line for line in said.getvalue().splitlines() if line.startswith("python -m")]
        good = stop.code in (0, 1, 2) and len(lines) <= 1
        outcome = ("refused" if good else f"exit {stop.code}"), said.getvalue()[-300:]
    except (ValueError, OSError) as error:
        outcome = "refused", str(error)[:300]
    except BaseException as error:
        outcome = f"raised {type(error).__name__}", "".join(traceback.format_exception(error)[-4:])
    with os.fdopen(writer, "w") as pipe:
        pipe.write("\n".join(outcome))
    os._exit(0)


# --- what is damaged -------------------------------------------------------------------------------------------------

Case = tuple[Path, Sequence[Path], Callable[[Path], object]]
"""A folder, the files in it that may be damaged, and what uses a copy of the folder."""


def weights(work: Path) -> dict[str, Case]:
    """Every model by name, small, with its files."""
    from every_model import EVERY

    from probe.models import load_model
    from probe.models.parts.files import Loading

    cases, said = {}, {}
    for name, make in EVERY.items():
        folder = work / "weights" / name
        folder.mkdir(parents=True)
        said[name] = make(folder)
        files = [path for path in folder.rglob("*") if path.is_file()]

        def use(copy: Path, name: str = name, folder: Path = folder) -> object:
            model, *flags = (word.replace(str(folder), str(copy)) for word in said[name])
            named = dict(zip(flags[::2], flags[1::2], strict=True))
            size = named.get("--model-size")
            return load_model(model, Loading(base=named.get("--base"), size=None if size is None else int(size)))

        if name == "cat3d-tiny":
            load_model(name).network.save_pretrained(folder)
            said[name], files = [f"{name}:{folder}"], [path for path in folder.rglob("*") if path.is_file()]
        if files:
            cases[f"weights of {name}"] = (folder, files, use)
    return cases


def runs(work: Path) -> dict[str, Case]:
    """A probe, a training and an evaluation, made by their commands, and their pages."""
    from analysis.building import build_report
    from probe import run
    from train import cameo, evaluate

    small = ["--views", "2", "--device", "cpu", "--no-report"]
    training = ["--steps", "2", "--batch-size", "1", "--evaluate-every", "1", "--evaluate-scenes", "1", "--probe-every",
                "0", "--rotation-ramp", "0", "--sampling-steps", "1", "--layer", "10"]  # fmt: skip
    evaluation = ["--groups", "4", "--n-ref", "1", "--features", "none", "--sampling-steps", "1"]
    folder = work / "runs"
    run.cli(
        ["--model", "cat3d-tiny:random", "--pairs", "4", "--layers", "10,11", *small, "--out", str(folder / "probe")]
    )
    cameo.cli([*training, *small, "--out", str(folder / "train")])
    evaluate.cli(["--model", "cat3d-tiny:random", *evaluation, *small, "--out", str(folder / "evaluate")])
    cases = {}
    for name in ("probe", "train", "evaluate"):
        files = [path for path in (folder / name).glob("*") if path.is_file()]
        cases[f"run of {name}"] = (folder / name, files, checked(build_report))
    return cases


def lists(work: Path) -> dict[str, Case]:
    """A frozen list of views of a small recording."""
    from small_nerfstudio import write_nerfstudio
    from small_world import make_world

    from probe import preview
    from probe.scenes import Request, open_scenes

    folder = work / "lists"
    write_nerfstudio(folder / "recording", make_world(10, roll=12.0), unit=2e-4)
    frozen = folder / "list.json"
    preview.cli(
        ["--scenes", f"nerfstudio:{folder / 'recording'}", "--freeze", str(frozen), "--out", str(folder / "shown.png")]
    )

    def use(copy: Path) -> object:
        request = Request(groups=2, views=2, n_ref=1, view_list=str(copy / "list.json"))
        return open_scenes(f"nerfstudio:{folder / 'recording'}", request).load(0)

    return {"list of views": (folder, [frozen], use)}


def flags(work: Path) -> dict[str, Case]:
    """The words of a command line, one a line."""
    from probe import run
    from probe.cli import parse
    from probe.plan.plan import make_plan
    from probe.plan.settings import Settings, choices

    folder = work / "flags"
    folder.mkdir(parents=True)
    words = ["--model", "cat3d-tiny", "--pairs", "2", "--views", "2", "--layers", "10", "--timesteps", "500"]
    words += ["--baselines", "none", "--interventions", "identity", "--select-by", "precision@5%"]
    words += ["--scenes", "shapes:plain", "--device", "cpu"]
    (folder / "words.txt").write_text("\n".join(words))

    def use(copy: Path) -> object:
        said = (copy / "words.txt").read_text(errors="replace").split("\n")
        return make_plan(
            parse(Settings, [*said, "--dry-run", "--out", str(copy / "out")], prog=run.PROG, choices=choices())
        )

    return {"flags": (folder, [folder / "words.txt"], use)}


MAKERS = {"weights": weights, "runs": runs, "lists": lists, "flags": flags}


def main(fuzz: Fuzz) -> None:
    import torch
    from standin_packages import standins

    torch.set_num_threads(1)
    random = Random(fuzz.seed)
    with tempfile.TemporaryDirectory() as temporary, standins():
        work, canary = Path(temporary), Path("/tmp") / CANARY
        shutil.rmtree(canary, ignore_errors=True)
        cases: dict[str, Case] = {}
        for kind in fuzz.kinds.split(","):
            cases |= MAKERS[kind](work)
        counts: dict[str, Counter[str]] = {name: Counter() for name in cases}
        slowest, findings = (0.0, ""), 0
        for number in range(fuzz.inputs):
            name = random.choice(list(cases))
            folder, files, use = cases[name]
            copy = work / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            target = copy / random.choice(files).relative_to(folder)
            try:
                how = damage(target, name, random, canary)
            except (ValueError, UnicodeDecodeError, IndexError, KeyError):
                continue  # a file that its damage cannot be told for
            outcome, words, seconds = attempt(lambda use=use, copy=copy: use(copy))
            counts[name][outcome] += 1
            slowest = max(slowest, (seconds, f"{name}, {target.name}: {how}"))
            if outcome not in ("read", "refused") or canary.exists():
                findings += 1
                print(f"FINDING {number} {name}, {target.relative_to(copy)}: {how}: {outcome}\n{words}", flush=True)
                shutil.rmtree(canary, ignore_errors=True)
    for name, counted in counts.items():
        print(f"{name}: {', '.join(f'{outcome} {count}' for outcome, count in counted.most_common())}")
    total = sum((counted for counted in counts.values()), Counter())
    print(f"{total.total()} inputs: {dict(total)}; {findings} findings; slowest {slowest[0]:.1f} s ({slowest[1]})")


if __name__ == "__main__":
    main(tyro.cli(Fuzz))
