"""The processes that share a run: one, or those that ``accelerate launch`` or ``torchrun`` started."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

Item = TypeVar("Item")
PATIENCE = timedelta(days=7)
"""How long a process waits for the others, which may still measure their scenes."""


def _nothing() -> None:
    """Do nothing."""


def _itself(value: bool) -> bool:
    return value


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a run, seen from one of them.

    Attributes:
        index: Of this one; the first writes what is the run's.
        count: Of all.
        wait: Return when all have come here.
        agree: Return to all what the first one calls it with.
        leave: Part from the others; the run is over.
    """

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = _nothing
    agree: Callable[[bool], bool] = _itself
    leave: Callable[[], None] = _nothing

    @property
    def is_first(self) -> bool:
        """Return whether this is the one that writes."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's part: every ``count``-th item."""
        return items[self.index :: self.count]

    def first_does(self, act: Callable[[], object]) -> None:
        """Let the first do something while the others wait; where it fails all end, and it alone says why.

        Raises:
            ValueError, OSError: In the first process, what ``act`` raised.
            SystemExit: With code 2, in the others.
        """
        error: Exception | None = None
        if self.is_first:
            try:
                act()
            except (ValueError, OSError) as caught:
                error = caught
        if self.agree(error is None):
            return
        raise error or SystemExit(2)


def join_processes(device: str) -> Processes:
    """Join the processes that a launcher started beside this one; alone without any.

    Args:
        device: "cpu" keeps them off the GPUs; else each takes one of its own where there are some.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
    return Processes(
        index=state.process_index,
        count=state.num_processes,
        wait=state.wait_for_everyone,
        agree=lambda value: bool(broadcast_object_list([value])[0]),
        leave=state.destroy_process_group,
    )
