"""What runs while a tap is open: forwards of the model one after the other, and watched modules inside one another."""

import threading
from collections import Counter
from dataclasses import dataclass, field

from probe.attention.call import Timestep
from probe.attention.explicit.trace import Trace
from probe.attention.targets import Target


@dataclass(eq=False)
class Step:
    """One forward of the model; or layers that ran without it (``model.encode(x)``), until one of them runs again."""

    number: int = -1
    of_model: bool = False
    timestep: Timestep = None
    pass_of_step: int = 0
    of_sampling: int = -1  # forwards in a row with the same timestep share it
    runs: Counter[str] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)
    seen: dict[Target, list[tuple[str, int]]] = field(default_factory=dict)
    skipped: set[Target] = field(default_factory=set)
    softmaxes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    raised: bool = False

    def following(self, of_model: bool, timestep: Timestep) -> "Step":
        """Begin the next one."""
        again = timestep is not None and timestep == self.timestep and not self.raised
        return Step(
            number=self.number + 1,
            of_model=of_model,
            timestep=timestep,
            pass_of_step=self.pass_of_step + 1 if again else 0,
            of_sampling=self.of_sampling if again else self.of_sampling + 1,
        )


@dataclass(eq=False, slots=True)
class Frame:
    """A running forward of a watched module: its next call's number, and the checkpointed region around it."""

    name: str
    nth: int
    region: object
    in_kernel: bool = False  # calls inside a kernel of another package are ignored


class Frames(threading.local):
    """The running forwards, innermost last; a torch function mode belongs to one thread, and so do they."""

    def __init__(self) -> None:
        self.running: list[Frame] = []
        self.trace: Trace | None = None  # of explicit softmaxes, where they are read
