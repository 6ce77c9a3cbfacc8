"""Pruning loops: from a ranking to a mask that keeps min accuracy.

``step``
    the loop of the papers: a group of heads a trial until the bound breaks.
``bisect``
    the same groups, the first that breaks the bound found by bisection, O(log n) trials. Then
    both restore that group's heads one by one. Where accuracy only falls as groups go, both
    choose the same heads. Where it also rises, there are several places at which a group breaks
    the bound: the loop stops at the first, bisection at one of them, so it can prune more or
    fewer; its result holds the bound just the same (docs/decisions/0006-bisection.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from torch import Tensor

from headsweep.errors import UserError
from headsweep.prune.choice import Choice, Step
from headsweep.prune.view import DefenderView


def default_step(units: int) -> int:
    """Return 10 units or a seventh of all, whichever is less (at least 1)."""
    return max(1, min(10, units // 7))


def ascending(scores: Tensor) -> list[int]:
    """Return the units by score, lowest first; ties by number."""
    return sorted(range(len(scores)), key=lambda unit: (float(scores[unit]), unit))


def candidates(scores: Tensor, view: DefenderView) -> list[int]:
    """Return the units that may go, lowest score first: all but the best of each row.

    The best of those that do something. Units at zero go first: they cost nothing.
    """
    ranked = sorted(ascending(scores), key=lambda unit: unit not in view.gone)
    rows = view.layout.row_of
    best = {rows[unit]: unit for unit in ranked}  # the last of each row
    return [unit for unit in ranked if best[rows[unit]] != unit]


def greedy(view: DefenderView, scores: Tensor, step: int | None = None, restore: int = 1) -> Choice:
    """Prune ``step`` units a trial, lowest score first, until min accuracy breaks.

    When a group breaks it, the group's units come back ``restore`` at a time (one by one),
    best score first, until it holds again, and the search ends. The best unit of each layer
    always stays.
    Source: Chapagain et al. 2025 and Zhao et al. 2024, the shared greedy loop.
    """
    groups = grouped(view, scores, step)
    gone: list[int] = []
    steps: list[Step] = []
    with view.progress.task("searching", len(groups)) as tick:
        for group in groups:
            steps.append(_trial(view, "prune", group, gone + group))
            tick(1, f"{len(gone) + len(group)} pruned")
            if not steps[-1].held:
                gone += back_off(view, gone, group, steps, restore)
                break
            gone += group
    gone = confirmed(view, gone, steps)
    return Choice(view.layout.mask(gone), scores, tuple(steps))


def bisect(view: DefenderView, scores: Tensor, step: int | None = None) -> Choice:
    """Find the group that breaks min accuracy by bisection, then restore as ``greedy`` does."""
    groups = grouped(view, scores, step)
    order = [unit for group in groups for unit in group]
    ends = [0, *accumulate(map(len, groups))]
    steps: list[Step] = []
    holds, breaks = 0, len(groups) + 1  # numbers of groups; the last stands for "none breaks"
    last = 0
    with view.progress.task("searching", len(groups).bit_length()) as tick:
        while breaks - holds > 1:
            middle = (holds + breaks) // 2
            steps.append(_between(view, order, last, ends[middle]))
            last = ends[middle]
            tick(1, f"{last} pruned")
            holds, breaks = (middle, breaks) if steps[-1].held else (holds, middle)
    gone = order[: ends[holds]]
    if breaks <= len(groups):
        if last != ends[breaks]:  # known already: the history goes back there
            steps.append(_between(view, order, last, ends[breaks]))
        gone += back_off(view, gone, groups[breaks - 1], steps)
    gone = confirmed(view, gone, steps)
    return Choice(view.layout.mask(gone), scores, tuple(steps))


def _between(view: DefenderView, order: Sequence[int], last: int, end: int) -> Step:
    """Try the first ``end`` units of an order, told as the change from the first ``last``."""
    action = "prune" if end > last else "restore"
    return _trial(view, action, order[min(last, end) : max(last, end)], order[:end])


Search = Callable[[DefenderView, Tensor, int | None], Choice]

SEARCHES: dict[str, Search] = {"bisect": bisect, "step": greedy}
"""Searches over a ranking, by the name that strategies have for them."""


def grouped(view: DefenderView, scores: Tensor, step: int | None) -> list[list[int]]:
    """Return the units that may go, lowest score first, in groups of ``step``."""
    if tuple(scores.shape) != (view.layout.units,):
        raise UserError(
            f"scores of the shape {list(scores.shape)}: the model has {view.layout.units} units",
            "give one score a unit, in the order of their flat numbers",
        )
    order = candidates(scores, view)
    size = step if step is not None else default_step(view.layout.units)
    if size < 1:  # of a strategy of one's own
        raise UserError(f"step must be at least 1, not {size}")
    return [order[i : i + size] for i in range(0, len(order), size)]


def confirmed(view: DefenderView, gone: Sequence[int], steps: list[Step]) -> list[int]:
    """Return what of ``gone`` is confirmed to hold min accuracy, restored from its end if need be.

    Costs nothing where every trial was exact in fp32; else a part of a pass a unit restored.
    """
    left = list(gone)
    while left:
        measured = view.confirm(view.layout.mask(left))
        if measured.holds(view.need):
            break
        back = left.pop()
        steps.append(Step("confirm", (back,), len(left), measured, False))
    return left


def back_off(
    view: DefenderView,
    gone: Sequence[int],
    group: Sequence[int],
    steps: list[Step],
    restore: int = 1,
) -> list[int]:
    """Restore a group's units, last one first, until min accuracy holds; return those left.

    ``group`` is in the order of pruning; trials are appended to ``steps``.
    """
    lefts = [group[:end] for end in range(len(group) - restore, -restore, -restore) if end > 0]
    lefts += [()] if gone else []  # else the whole model again: nothing to measure
    masks = [view.layout.mask([*gone, *left]) for left in lefts]
    measured = view.first_to_hold(masks)
    before = list(group)
    for left, found in zip(lefts, measured, strict=False):
        held = bool(found.holds(view.need))
        units = tuple(before[len(left) :])
        steps.append(Step("restore", units, len(gone) + len(left), found, held))
        before = list(left)
    return before if measured and steps[-1].held else []


def _trial(view: DefenderView, action: str, units: Sequence[int], gone: Sequence[int]) -> Step:
    measured = view.decide(view.layout.mask(gone))
    held = bool(measured.holds(view.need))
    return Step(action, tuple(units), len(gone), measured, held)


def held(
    view: DefenderView, order: Sequence[int], action: str = "prune"
) -> tuple[list[int], list[Step]]:
    """Prune all of ``order`` at once; restore from its end until min accuracy holds."""
    if not order:
        return [], []
    steps = [_trial(view, action, order, order)]
    left = list(order) if steps[0].held else back_off(view, [], order, steps)
    return confirmed(view, left, steps), steps
