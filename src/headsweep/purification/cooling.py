"""Healing held to the bound: as hot as accuracy allows, begun anew cooler where it lost too much.

A hot healing forgets more of a backdoor, and of the task. So it begins at its own rate, and again
from the same pruned weights at half of it while accuracy ends below the bound, as often as the
healing allows; not where so few answers are missing that chance may have done it (``bound``). Where
no try holds the bound, the best of them stays.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from headsweep.cost import Clock
from headsweep.heal.fine_tune import Healing
from headsweep.heal.finished import once
from headsweep.heal.soup import guessed
from headsweep.measure.accuracy import FREE, Accuracy, Floor
from headsweep.prune.choice import Choice
from headsweep.prune.view import DefenderView
from headsweep.purification.bound import Allowance, answers
from headsweep.purification.material import Figures, Material
from headsweep.task.training import DivergedError, copied, put_back, round_weights


@dataclass(frozen=True)
class Healed:
    """What healing came to.

    Attributes:
        record: what the healing whose weights stayed wrote down.
        after: accuracy with them.
        tried: rate and validation accuracy of every try, where there may be several.
        notes: what was done again, and why.

    """

    record: dict[str, Any]
    after: Figures
    tried: tuple[dict[str, float], ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it for a manifest."""
        return self.record | ({"tried": list(self.tried)} if self.tried else {})


@dataclass
class _Try:
    record: dict[str, Any]
    after: Figures
    weights: dict[str, Tensor] = field(default_factory=dict)


def heal_within(
    allowance: Allowance | None,
    healing: Healing,
    material: Material,
    view: DefenderView,
    choice: Choice,
    clock: Clock,
) -> Healed:
    """Heal the pruned model in place, cooler while it ends below the bound.

    Args:
        allowance: what may be lost; None: nothing bounds it, and it is healed once.
        healing: the first try.
        material: the suspect and its data.
        view: the same, as the healing sees it.
        choice: what is pruned.
        clock: how long it takes.

    Raises:
        DivergedError: no try ended better than guessing, where the bound asks for more.

    """
    model = material.suspect.model
    notes: list[str] = []

    def note(told: str) -> None:
        notes.append(told)
        view.progress.say(f"note: {told}")

    tried: list[dict[str, float]] = []
    may_cool = allowance is not None and healing.tries > 0
    moved = healing.moves(view.anatomy)
    first = copied(model, moved) if may_cool else {}
    floor = FREE if allowance is None else allowance.floor
    best: _Try | None = None
    now: _Try | None = None  # whose weights the model has
    left: Healing | None = healing
    while left is not None:
        try:
            now = _healed_once(left, material, view, choice, clock, floor)
        except DivergedError as failed:
            left = left.cooler() if may_cool else None
            if left is None and best is None:
                raise
            note(f"{failed.what}{': again at half of it' if left is not None else ''}")
            put_back(model, first)
            now = None
            continue
        got = now.after.validation
        held = allowance is None or allowance.held_by(got)
        if may_cool:
            tried.append({"lr": now.record["lr"], got.words.key: got.value} | dict(got.beside))
        if best is None or held or got.rank > best.after.validation.rank:
            best = now if held or not may_cool else replace(now, weights=copied(model, moved))
        left = left.cooler() if may_cool and not held else None
        if left is not None and allowance is not None:
            again = not allowance.missed_by_chance(got)
            note(_cooled(now, got) if again else _by_chance(allowance.need - got.right))
            left = left if again else None
            if again:
                put_back(model, first)
    assert best is not None
    if healing.trains and floor.lost_by(best.after.validation, view.guessing):
        raise guessed()
    if may_cool and (now is None or best.record is not now.record):
        put_back(model, best.weights)
        note(
            "no healing held the bound: the weights are of the best of them, at a learning rate of "
            f"{best.record['lr']:g}"
        )
    return Healed(best.record, best.after, tuple(tried), tuple(notes))


def _healed_once(
    healing: Healing,
    material: Material,
    view: DefenderView,
    choice: Choice,
    clock: Clock,
    floor: Floor,
) -> _Try:
    model = material.suspect.model
    file = parts = None
    if view.kept is not None:  # a name for every try
        parts = view.kept / "members"
        file = view.kept / f"healed-{healing.tries}.safetensors"
    with clock("heal"):
        at_work = replace(view, kept=parts)
        work, moved = partial(healing.heal, at_work, choice, floor), healing.moves(view.anatomy)
        record = once(file, model, work, moved, view.progress.say)
        if parts is not None:
            shutil.rmtree(parts, ignore_errors=True)  # the whole is kept now
    round_weights(model, material.suspect.precision)
    with clock("measure"):
        return _Try(record, material.figures())


def _cooled(tried: _Try, got: Accuracy) -> str:
    return (
        f"healing at a learning rate of {tried.record['lr']:g} took validation "
        f"{got.words.held_name} to {got.held:.4f}, out of the bound: again at half of it"
    )


def _by_chance(missing: int) -> str:
    return (
        f"healing missed the bound by {answers(missing)}, which so few examples cannot tell from "
        "chance: not begun anew"
    )
