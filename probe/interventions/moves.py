"""Which heads attend to less: moves, and the order in which a plan takes them under a budget. Pure.

Every layer whole, or single heads, may be made to attend to less (a :class:`Move`). What each move costs is measured
alone; then they are added, the one with the most saved per added error first, and all that are in the plan are measured
together each time: effects do not add up.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from probe.interventions.schemes import MODES, Mode, Scheme, Schemes, scheme_of
from probe.layers import Layer

ORDER: tuple[Mode, ...] = tuple(MODES)
LEAST = 0.005
"""Share of all multiply-adds that a move must save to be tried."""


class Move(NamedTuple):
    """Heads of a layer that attend to less."""

    layer: int
    heads: tuple[int, ...]
    mode: Mode


class Step(NamedTuple):
    """A move that was tried, with what the plan would be with it.

    Attributes:
        move: That was tried.
        alone: Growth of the prediction's error under this move alone.
        growth: Likewise under the plan before it and this move; of this move alone, where that is too much already.
        cost: Multiply-adds likewise.
        taken: Whether it stays in the plan.
    """

    move: Move
    alone: float
    growth: float
    cost: int
    taken: bool


def whole_moves(layers: Sequence[Layer]) -> list[Move]:
    """List the layers, each to attend within views with all heads.

    Args:
        layers: That join views.
    """
    return [Move(layer.index, tuple(range(layer.heads)), ORDER[-1]) for layer in layers if layer.index is not None]


def parts_of(move: Move) -> list[Move]:
    """Return what may be done of a move that goes too far: fewer heads, or more keys."""
    if move.mode != ORDER[-1]:
        return []
    heads = [move._replace(heads=(head,)) for head in move.heads] if len(move.heads) > 1 else []
    return [*heads, *(move._replace(mode=mode) for mode in ORDER[1:-1])]


def after(schemes: Schemes, move: Move, layers: Sequence[Layer]) -> dict[int, Scheme]:
    """Return the schemes after a move; heads that attend to as little already stay.

    Args:
        schemes: By layer.
        move: Of heads of one of the layers.
        layers: That join views.
    """
    layer = next(layer for layer in layers if layer.index == move.layer)
    more = ORDER[: ORDER.index(move.mode)]
    changed = tuple(
        move.mode if head in move.heads and mode in more else mode
        for head, mode in enumerate(scheme_of(schemes, layer))
    )
    return {**schemes, move.layer: changed}


def plan_steps(
    moves: Sequence[Move],
    follow: Callable[[Schemes, Move], Schemes],
    cost: Callable[[Schemes], int],
    growth: Callable[[Schemes], float],
    budget: float,
) -> tuple[Schemes, list[Step]]:
    """Add moves to a plan as long as the error grows by no more than the budget.

    The move that saves most per error that it adds alone is tried first, together with the whole plan before it. The
    parts of a move that goes too far, alone or with the plan, take its place.

    Args:
        moves: To begin with.
        follow: From schemes and a move to the schemes after it.
        cost: Of schemes, in multiply-adds.
        growth: Of the error under schemes, all together; NaN counts as too much.
        budget: The most that the error may grow by.

    Returns:
        The plan, whose measured growth is at most the budget, and the moves that were tried: first those that alone go
        too far, then, in order, those that were tried with the plan. One that saves less than :data:`LEAST` is not
        tried.
    """
    start, plan, steps = cost({}), dict[int, Scheme](), list[Step]()
    queue: dict[Move, tuple[float, float]] = {}

    def consider(new: Sequence[Move]) -> None:
        for move in new:
            saved = start - cost(follow({}, move))
            if saved < LEAST * start:
                continue
            alone = growth(follow({}, move))
            if alone <= budget:
                queue[move] = max(alone, 0.0) / saved, alone
            else:
                steps.append(Step(move, alone, alone, start - saved, taken=False))
                consider(parts_of(move))

    consider(moves)
    while queue:
        move = min(queue, key=lambda move: queue[move][0])
        alone, tried = queue.pop(move)[1], follow(plan, move)
        if cost(tried) >= cost(plan):
            continue
        together = growth(tried)
        steps.append(Step(move, alone, together, cost(tried), taken=together <= budget))
        if together <= budget:
            plan = dict(tried)
        else:
            consider(parts_of(move))
    return plan, steps
