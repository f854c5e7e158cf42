"""How far the runs of a study are."""

from pathlib import Path

from probe.records import RunError, parse_json
from probe.records.names import EVALUATION_LOG, FINAL_CARD


def last_step(log: Path) -> int:
    """Return the step of the last whole row of a log; 0 where there is none.

    Args:
        log: One JSON object a line; the last line may be cut off.

    Raises:
        RunError: If that row has no step.
    """
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    try:
        return int(parse_json(whole[-1])["step"]) if whole else 0
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"last_step: the last row of {log} has no step ({error!r}); remove that run's folder") from error


def is_finished(folder: Path, steps: int) -> bool:
    """Return whether a run was evaluated at its last step and saved its final weights.

    Args:
        folder: Of python -m train.cameo; it need not exist.
        steps: The last step.
    """
    card = folder / FINAL_CARD
    return card.is_file() and _step_of(card) in (None, steps) and last_step(folder / EVALUATION_LOG) == steps


def _step_of(card: Path) -> int | None:
    """Return the step that a card tells: a run that went on has, until it ends again, the weights of its last end."""
    try:
        return parse_json(card.read_text(encoding="utf-8")).get("steps")
    except (ValueError, AttributeError):
        return None


def has_weights(final: Path) -> bool:
    """Return whether a folder holds a network's weights: kept studies have cards without them."""
    return any(final.glob("*.safetensors"))
