"""A soup: several healings that differ by their seed, averaged, and taken beyond their mean.

Healings of the same pruned weights forget the same backdoor and err each in its own way, so that
their mean forgets it and errs less. And what they have in common points away from it: from the
pruned weights through the mean and on, as far as the bound on accuracy allows. Where the mean
itself is out of the bound, the way there is searched: that costs no training.

Sources: Wortsman et al. 2022, *Model soups* (the mean of fine-tuned weights, uniform and greedy);
Ilharco et al. 2023, *Editing models with task arithmetic* (weights moved along a difference).
Deviation: members differ by nothing but their seed (the order of the texts, the dropout, which
texts weigh the layers for the attention penalty, how adapters begin), and one that ended no better
than guessing is left out of a uniform soup too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from headsweep.errors import ShortOfMemory
from headsweep.heal.members import Made
from headsweep.measure.accuracy import Accuracy, Floor
from headsweep.model.narrow import Thin, beside, settle
from headsweep.model.runtime import free_bytes
from headsweep.prune.view import DefenderView
from headsweep.task.training import DivergedError, copied, put_back, round_weights

How = Literal["uniform", "greedy"]
STEP = 0.1  # between the places that are tried
NEAREST = 0.5  # of the way to the mean: the nearest place that is tried, where the mean fails
MOST_BEYOND = 3.0
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Member:
    """One healing.

    Attributes:
        accuracy: the share of validation examples right, by itself; None: its loss was no number.
        joined: it is part of the mean.
        losses: of each tenth of its training.

    """

    accuracy: float | None
    joined: bool
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Soup:
    """What a soup came to; the model has its weights.

    Attributes:
        members: every healing.
        beyond: how far along from the pruned weights to the mean: 1: the mean.
        places: how validation examples stand at every place tried, by that number.
        record: what the first member wrote down.

    """

    members: tuple[Member, ...]
    beyond: float
    places: dict[float, Accuracy]
    record: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it for a manifest."""
        return self.record | {
            "members": [asdict(member) for member in self.members],
            "beyond": self.beyond,
            "places": [{"beyond": t} | at.decides for t, at in self.places.items()],
        }


def simmer(
    view: DefenderView,
    made: Iterator[Made],
    count: int,
    how: How,
    beyond: float,
    floor: Floor,
    start: Weights,
) -> Soup:
    """Average healings of the model and go beyond; the model gets the weights.

    Args:
        view: the pruned suspect and its data; the model is as it was pruned.
        made: the healings, each in the model until the next is asked for.
        count: how many there will be.
        how: ``uniform``: all of them; ``greedy``: from the best on, those with which validation
            accuracy does not fall.
        beyond: how far at most; 1: to the mean. Of places ``STEP`` apart the farthest that keeps
            the floor is taken, found by halving; where none does, the nearest.
        floor: what must be kept on validation examples.
        start: the weights that every member began from: all that a member may change.

    Raises:
        DivergedError: no member is better than guessing.
        ShortOfMemory: memory does not hold them.

    """
    pot = _Pot(view, start)
    if how == "greedy":
        _check_room(pot.start, count)
    stood: list[Accuracy | None] = []
    apart: dict[int, Weights] = {}
    records: list[dict[str, Any]] = []
    for number, member in enumerate(made):
        now = view.accuracy_now() if member.finite else None
        stood.append(now)
        records.append(member.record)
        if now is None or floor.lost_by(now, view.guessing):
            told = "diverged" if now is None else "ended no better than guessing"
            view.progress.say(f"note: healing {number + 1} of {count} {told}: left out")
        elif how == "greedy":
            apart[number] = copied(view.anatomy.model, start)
        else:
            apart[number] = {}
            pot.add(view.anatomy.model.state_dict(), beside(view.anatomy.model))
    if not apart:
        put_back(view.anatomy.model, start)
        raise guessed(count)
    joined = _greedily(pot, apart, stood) if how == "greedy" else set(apart)
    places = _farthest(pot, beyond, floor)
    members = tuple(
        Member(
            None if now is None else now.value,
            number in joined,
            tuple(record.pop("losses", ())),
        )
        for number, (now, record) in enumerate(zip(stood, records, strict=True))
    )
    first = records[min(joined)]
    return Soup(members, list(places)[-1], places, first)


class _Pot:
    """The sum of the members, and the weights that the model gets from it.

    A member that stands beside weights held narrow is kept as that: sums are made one at a time.
    """

    def __init__(self, view: DefenderView, start: Weights) -> None:
        self.view, self.start = view, start
        self.sum: Weights = {}
        self.thin: dict[str, list[Thin]] = {}
        self.count = 0

    def add(
        self, weights: Mapping[str, Tensor], thin: Mapping[str, Thin] = {}, sign: int = 1
    ) -> None:
        """Add a copy, or take it out again; ``thin``: what stands beside some of the weights."""
        self.count += sign
        for name in self.start:
            tensor = weights[name]
            if not tensor.is_floating_point():
                continue
            if name in thin:
                self.thin.setdefault(name, []).append(thin[name])
            elif name in self.sum:
                self.sum[name].add_(tensor.cpu(), alpha=sign)
            else:
                self.sum[name] = tensor.to("cpu", copy=True)

    def mean(self, name: str, start: Tensor) -> Tensor:
        """Return the mean of a weight, [as it is], on the device that it starts from."""
        if name in self.sum:
            return self.sum[name].to(start.device) / self.count
        first, *others = self.thin[name]
        total = first.with_(start)
        for one in others:
            total += one.with_(start)
        return total / self.count

    def at(self, t: float) -> Accuracy:
        """Give the model the weights ``t`` times as far as the mean; return how it stands.

        They are rounded to what will be saved. What is zero in all of them stays zero.
        """
        model = self.view.anatomy.model
        settle(model, keep=False)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name in self.sum or name in self.thin:
                    start = self.start[name].to(tensor.device)
                    mean = self.mean(name, start)
                    tensor.copy_(mean if t == 1 else start.to(mean.dtype).lerp(mean, t))
        round_weights(model, self.view.precision)
        return self.view.accuracy_now()


def _greedily(pot: _Pot, apart: dict[int, Weights], stood: Sequence[Accuracy | None]) -> set[int]:
    """Add the members from the best on, those with which accuracy does not fall."""
    ranks = [-math.inf if one is None else one.rank for one in stood]
    joined: set[int] = set()
    best = -math.inf
    for number in sorted(apart, key=lambda n: -ranks[n]):
        pot.add(apart[number])
        rank = pot.at(1).rank
        if rank >= best:
            best = rank
            joined.add(number)
        else:
            pot.add(apart[number], sign=-1)
    return joined


def _farthest(pot: _Pot, beyond: float, floor: Floor) -> dict[float, Accuracy]:
    """Give the model the farthest weights that hold; return how they stand by place, as tried.

    The farthest place is tried first, then the mean, then halves of what is open above it where it
    holds, of what is open below it where it does not: as if accuracy fell along the way. The place
    taken has been measured, whatever lies between; where none holds it is the nearest.
    """
    places: dict[float, Accuracy] = {}

    def place(step: int) -> float:
        return min(beyond, round(1 + step * STEP, 6))

    def holds(step: int) -> bool:
        places[place(step)] = pot.at(place(step))
        return floor.held_by(places[place(step)])

    low, high = 0, math.ceil((beyond - 1) / STEP - 1e-9)
    if holds(high):
        return places
    if high == 0 or not holds(0):
        low, high = round((NEAREST - 1) / STEP), 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    if list(places)[-1] != place(low):
        places.pop(place(low), None)
        places[place(low)] = pot.at(place(low))  # the last is the one that is taken
    return places


def _check_room(weights: Weights, count: int) -> None:
    """Refuse a greedy soup, which keeps its members, where memory cannot hold them."""
    first = next(iter(weights.values()))
    size = sum(x.numel() * x.element_size() for x in weights.values())
    fit = int(free_bytes(first.device) // (2 * size))  # as much again to train with
    if count > fit:
        raise ShortOfMemory(
            f"memory holds {fit} healings of this model beside each other, not {count}",
            f"give at most {max(1, fit)} members, or how=uniform, which holds one sum",
        )


def guessed(count: int = 1) -> DivergedError:
    """Return what to say of healings that came to nothing."""
    told = "healing" if count == 1 else f"each of {count} healings"
    return DivergedError(
        f"{told} ended no better than guessing: the learning rate does not suit this model",
        "a lower --heal lr, or a higher one where the pruned model guesses too; or more validation "
        "examples where there are few",
    )
