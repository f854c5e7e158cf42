"""What is edited and measured of a model's layers, and when."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from probe.image_quality import LPIPS_WEIGHTS, absence
from probe.interventions.edits import INTERVENTIONS, Intervention
from probe.layers import JOINING, Layer
from probe.models.schedules import STEPS
from probe.records import ALL_HEADS, LPIPS

USUAL: tuple[Intervention, ...] = ("identity", "within_view")
"""The paper's edit, which also takes a view's own tokens away, and the one that takes the other views away alone."""
USUAL_STEPS = 10
FEW_SCENES = 8  # of a run that was not asked for interventions


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is edited and measured.

    Attributes:
        interventions: By name.
        timesteps: At which predictions are measured.
        during: Timesteps, first and last, at which edits act.
        each_head: Whether every head is edited alone as well; predictions only.
        steps: Of DDIM, for sampled views; 0 for none.
        scenes: How many are edited, the first ones; None for all.
        seed: Of the shuffled keys.
        where_possible: Whether an edit that a layer cannot have, since its mask hides keys, is NaN with count 0.
    """

    interventions: tuple[Intervention, ...] = ()
    timesteps: tuple[int, ...] = ()
    during: tuple[int, int] = (0, STEPS - 1)
    each_head: bool = False
    steps: int = 0
    scenes: int | None = None
    seed: int = 0
    where_possible: bool = False

    def covers(self, index: int) -> bool:
        """Return whether a scene is edited."""
        return bool(self.interventions) and (self.scenes is None or index < self.scenes)

    @property
    def note(self) -> str:
        """Return what sampled views cannot be judged by, in words; empty if nothing is missing."""
        return absence(LPIPS, LPIPS_WEIGHTS) if self.steps else ""

    def trials(self, layers: Sequence[Layer], *, heads: bool) -> Iterator[tuple[Intervention, Layer, int]]:
        """List what is edited, one after the other: intervention, layer, and head (-1 for all together)."""
        for name in self.interventions:
            for layer in editable(layers):
                yield from ((name, layer, head) for head in range(ALL_HEADS, layer.heads if heads else 0))

    def record(self) -> dict[str, object]:
        """Return plain values for config.json, as the command line spells them."""
        return {
            "interventions": ",".join(self.interventions) or "none",
            "edit_timesteps": f"{self.during[0]}-{self.during[1]}",
            "edit_scenes": self.scenes,
            "edit_heads": self.each_head,
            "sampling_steps": self.steps,
        }


def editable(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers that join views."""
    return [layer for layer in layers if layer.kind in JOINING]


# --- from words ------------------------------------------------------------------------------------------------------


def plan_experiment(
    names: str | None,
    layers: Sequence[Layer],
    timesteps: Sequence[int],
    *,
    during: str | None,
    each_head: bool,
    steps: int | None,
    scenes: int | None,
) -> Experiment:
    """Read what is to be edited.

    Args:
        names: Of interventions, by commas; "none"; or None for :data:`USUAL`: where nothing else is asked for, on
            predictions of the first scenes at the middle timestep only, which costs little.
        layers: That are scored.
        timesteps: At which they are scored.
        during: Range of timesteps, such as "0-499"; None for all.
        each_head: See :class:`Experiment`.
        steps: Of DDIM; None for 10 where interventions are named.
        scenes: To edit; None for all where interventions are named.

    Raises:
        ValueError: If a name is unknown, no layer joins views, a range or a number cannot be, or nothing is left.
    """
    check_scenes(scenes)
    check_steps(steps)
    if names is None and during is None and not steps and not each_head:
        middle = timesteps[len(timesteps) // 2]
        if not editable(layers):
            return Experiment()
        few = FEW_SCENES if scenes is None else scenes
        return Experiment(
            interventions=USUAL, timesteps=(middle,), during=(middle, middle), scenes=few, where_possible=True
        )
    wanted = tuple(name for name in (names or "identity").split(",") if name not in ("", "none"))
    _check_names(wanted, layers, steps, each_head=each_head)
    first, last = (0, STEPS - 1) if during is None else timestep_range(during)
    inside = tuple(t for t in timesteps if first <= t <= last)
    if wanted and not inside:
        raise ValueError(f"edits during timesteps {during}: none of those that are scored lies in it; choose others")
    known: tuple[Intervention, ...] = tuple(name for name in INTERVENTIONS if name in wanted)
    drawn = (USUAL_STEPS if steps is None else steps) if wanted else 0
    return Experiment(
        interventions=known,
        timesteps=inside,
        during=(first, last),
        each_head=each_head,
        steps=drawn,
        scenes=scenes if wanted else None,
        where_possible=known == USUAL,
    )


def _check_names(wanted: Sequence[str], layers: Sequence[Layer], steps: int | None, *, each_head: bool) -> None:
    unknown = sorted(set(wanted) - set(INTERVENTIONS))
    if unknown:
        raise ValueError(f"{','.join(unknown)} is no intervention; choose from {', '.join(INTERVENTIONS)}, or none")
    if wanted and not editable(layers):
        raise ValueError("none of the scored layers joins views; choose 3D layers, or the intervention none")
    if not wanted and (steps or each_head):
        raise ValueError("the intervention none leaves nothing for single heads or sampled views; leave them out")


def check_scenes(scenes: int | None) -> None:
    """Refuse a number of edited scenes below 1.

    Raises:
        ValueError: If it is.
    """
    if scenes is not None and scenes < 1:
        raise ValueError(f"{scenes} edited scenes: expected at least 1; the intervention none edits nothing")


def check_steps(steps: int | None) -> None:
    """Refuse a number of sampling steps that the schedule does not have.

    Raises:
        ValueError: If it is below 0 or beyond the schedule.
    """
    if steps is not None and not 0 <= steps <= STEPS:
        raise ValueError(f"{steps} sampling steps: expected 1 to {STEPS}, or 0 for predictions only")


def timestep_range(text: str) -> tuple[int, int]:
    """Read the first and the last timestep of a range such as "0-499".

    Raises:
        ValueError: If it is none, or leaves the schedule.
    """
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last) < STEPS):
        raise ValueError(
            f"{text!r}: expected a range of timesteps within 0 (clean) to {STEPS - 1} (noise), such as 0-499"
        )
    return int(first), int(last)


def passes(experiment: Experiment, layers: Sequence[Layer], scenes: int) -> int:
    """Return the number of denoising steps that an experiment takes on a number of scenes."""
    edited = sum(experiment.covers(index) for index in range(scenes))
    predicted = len(list(experiment.trials(layers, heads=experiment.each_head))) + 1
    sampled = len(list(experiment.trials(layers, heads=False))) + 1
    return edited * (predicted * len(experiment.timesteps) + sampled * experiment.steps)
