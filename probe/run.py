"""Measure where a multi-view model's 3D attention finds the true corresponding point: ``python -m probe.run``."""

import sys
from contextlib import ExitStack

from probe import cli as command
from probe.plan.settings import Settings, choices

PROG = "python -m probe.run"


def main(settings: Settings) -> None:
    """Measure, choose the layer, write the run folder, show the table."""
    with command.flag("--scenes"):
        command.check_scenes(settings.scenes)
    with command.flag("--model"):
        command.check_model(settings.model)
    # torch and the models are imported when the flags are known to be right, so that --help answers at once
    from rich.console import Console

    from probe.plan.dry_run import rehearse_run
    from probe.plan.plan import make_plan
    from probe.plan.processes import join_processes

    processes = join_processes(settings.device)
    plan, console = make_plan(settings), Console(width=None if sys.stdout.isatty() else 120)
    if not settings.dry_run:
        _run(plan, processes, console)
    elif processes.is_first:
        rehearse_run(plan, console)
    processes.leave()


def _run(plan, processes, console) -> None:
    """Measure with all processes; the first one opens the folder, chooses the layer, and writes the page."""
    from probe.plan.parts import measure_scenes

    out = plan.settings.out
    with ExitStack() as stack:
        processes.first_does(lambda: _open(plan, console, stack))
        if (out / "parts").exists():
            measure_scenes(plan, processes)
            processes.wait()
            if processes.is_first:
                _choose(plan, console)
        if processes.is_first and plan.settings.report:
            from analysis.report import refresh

            console.print(f"page: {refresh(out)}")


def _open(plan, console, stack) -> None:
    """Open the folder and lock it, with a part of it for the scenes unless the run is complete."""
    from probe.plan.parts import open_parts
    from probe.plan.truth import check_plan, record_truth
    from probe.records import alone, open_run

    out = plan.settings.out
    open_run(out, plan.record, resume=plan.settings.resume)
    stack.enter_context(alone(out))
    if (out / "selection.json").exists() and not (out / "parts").exists():
        console.print(f"{out} is complete already")
        return
    for note in filter(None, (*record_truth(plan, check_plan(plan)), plan.experiment.note)):
        console.print(note, markup=False, soft_wrap=True)
    open_parts(out)


def _choose(plan, console) -> None:
    from probe.plan.parts import join_scenes, save
    from probe.records import SCORES
    from probe.selection import layer_table, select_heads, select_layer
    from probe.selection.reading import read_heads, read_ranked
    from probe.selection.terminal import show
    from probe.selection.ties import supervision_costs

    pairs = join_scenes(plan)
    scores = read_ranked(plan.settings.out / SCORES, plan.protocol, plan.select_by)
    costs = supervision_costs(plan.layers, plan.settings.views)
    selection = select_layer(scores, metric=plan.select_by, model=plan.model.name, costs=costs)
    layers = layer_table(scores, selection)
    apart = read_heads(plan.settings.out / SCORES, selection.protocol, selection.metric, selection.layer)
    heads = select_heads(apart, selection)
    save(plan, pairs, layers, selection, heads)
    show(console, layers, selection, pairs, scores)
    if heads is not None:
        console.print(heads.evidence, soft_wrap=True)


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG, choices=choices()), prog=PROG)


if __name__ == "__main__":
    cli()
