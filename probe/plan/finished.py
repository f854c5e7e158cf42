"""A finished probe run, measured again: its settings, and whether weights and scenes are still those that were scored.

Needs neither torch nor pandas.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.plan.settings import Device, Settings
from probe.records.folder import parse_json
from probe.records.names import CONFIG, MODEL_CARD, SCORES, SELECTION

if TYPE_CHECKING:
    from probe.plan.plan import Plan

KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("model_size", "pairs", "views", "n_ref", "frames_per_view", "image_size", "seed"), int),
    **dict.fromkeys(("offload", "strict", "follow_links", "resume", "report", "dry_run", "hidden"), bool),
    "min_overlap": (int, float),
}
"""Of settings that are no text."""


def check_finished(run: Path) -> None:
    """Refuse a folder that holds no finished probe run.

    Raises:
        FileNotFoundError: If one of its files is missing.
    """
    for name in (CONFIG, SCORES, SELECTION, MODEL_CARD):
        if not (run / name).is_file():
            raise FileNotFoundError(f"{run / name}: missing; name the folder of a finished probe run")


def settings_of(run: Path, device: Device) -> Settings:
    """Return the settings of a probe run, without what is not measured again.

    Args:
        run: Its folder.
        device: To compute on now.

    Raises:
        ValueError: If its config.json is not that of a probe run.
    """
    path = run / CONFIG
    names = {field.name for field in fields(Settings)}
    try:
        known = dict(parse_json(path.read_text(encoding="utf-8"))["settings"])
        kept: dict[str, Any] = {name: value for name, value in known.items() if name in names and value is not None}
        kept["timesteps"] = ",".join(map(str, kept.get("timesteps", ()))) or None
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not the settings of a probe run ({error!r}); probe again") from error
    for name in ("interventions", "edit_timesteps", "edit_scenes", "edit_heads", "sampling_steps"):
        kept.pop(name, None)
    own = {"out": run, "device": device, "baselines": "none", "interventions": "none"}
    wrong = [name for name, value in kept.items() if value is not None and not isinstance(value, KINDS.get(name, str))]
    if wrong:
        raise ValueError(f"{path}: {', '.join(wrong)} of another kind than a probe run writes; probe again")
    return Settings(**{**kept, **own})


def check_weights(run: Path, plan: Plan) -> None:
    """Refuse to measure other weights than those that were scored.

    Args:
        run: Folder of the probe run.
        plan: What its settings give now.

    Raises:
        ValueError: If they differ.
    """
    card = parse_json((run / MODEL_CARD).read_text(encoding="utf-8"))
    if card != {"name": plan.model.name, **(plan.model.card or {})}:
        raise ValueError(
            f"{run / MODEL_CARD}: the weights of {plan.model.name} are not those that were scored; probe again"
        )


def check_same(run: Path, plan: Plan, scored: Collection[str]) -> None:
    """Refuse to measure other weights, or other scenes, than those that were scored.

    Args:
        run: Folder of the probe run.
        plan: What its settings give now.
        scored: Names of the scenes in its table.

    Raises:
        ValueError: If they differ.
    """
    check_weights(run, plan)
    if set(scored) != set(plan.scenes.names):
        raise ValueError(f"{run / SCORES}: its scenes are not those that its settings give now; probe again")
