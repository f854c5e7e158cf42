"""A finished probe run, to go on from: its settings again, and whether it is of the same weights and scenes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.plan.settings import Device
from probe.plan.settings import Settings as ProbeSettings
from probe.records.names import CONFIG, MODEL_CARD, SCORES, SELECTION

if TYPE_CHECKING:
    import pandas as pd

    from probe.plan.plan import Plan

KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("model_size", "pairs", "views", "n_ref", "frames_per_view", "image_size", "seed"), int),
    **dict.fromkeys(("offload", "strict", "follow_links", "resume", "report", "dry_run", "hidden"), bool),
    "min_overlap": (int, float),
}
"""Of settings that are no text."""


def check_finished(run: Path) -> None:
    """Check that a folder is that of a finished probe run.

    Raises:
        FileNotFoundError: If a file is missing.
    """
    for name in (CONFIG, SCORES, SELECTION, MODEL_CARD):
        if not (run / name).is_file():
            raise FileNotFoundError(f"{run / name}: missing; name the folder of a finished probe run")


def settings_again(run: Path, device: Device) -> ProbeSettings:
    """Return the settings of a finished probe run, without what is not measured again.

    Args:
        run: Its folder.
        device: Where to go on.

    Raises:
        ValueError: If they are none.
    """
    from probe.records import parse_json

    path = run / CONFIG
    names = {field.name for field in fields(ProbeSettings)}
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
    return ProbeSettings(**{**kept, **own})


def check_weights(run: Path, plan: Plan) -> None:
    """Refuse to go on with other weights than those that were scored.

    Args:
        run: Folder of the probe run.
        plan: Of its settings.

    Raises:
        ValueError: If they differ.
    """
    from probe.records import parse_json

    scored, card = parse_json((run / MODEL_CARD).read_text(encoding="utf-8")), plan.model.card or {}
    if scored != {"name": plan.model.name, **card}:
        raise ValueError(
            f"{run / MODEL_CARD}: the weights of {plan.model.name} are not those that were scored; probe again"
        )


def check_same(run: Path, plan: Plan, scores: pd.DataFrame) -> None:
    """Refuse to go on with other weights, or on other scenes, than those that were scored.

    Args:
        run: Folder of the probe run.
        plan: Of its settings.
        scores: Its scores, or some of them.

    Raises:
        ValueError: If they differ.
    """
    check_weights(run, plan)
    if set(scores["scene"].astype(str)) != set(plan.scenes.names):
        raise ValueError(f"{run / SCORES}: its scenes are not those that its settings give now; probe again")
