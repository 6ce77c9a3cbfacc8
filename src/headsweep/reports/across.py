"""All victims of a grid in one table: what each method left of each, and at what accuracy.

A victim is a model, data set and attack; its seeds are averaged first. Methods are compared over
the victims and seeds of both, pair by pair, with one of them, and the interval is a bootstrap over
victims: it speaks of further victims like these. What texts and seeds leave open, the tables of
each victim say (``headsweep.reports.comparison``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

import numpy as np

from headsweep.bench.results.store import Form
from headsweep.errors import lookup
from headsweep.judge.statistics import Rate
from headsweep.reports.comparison import is_below, is_replication, shared_cost
from headsweep.reports.resampling import RESAMPLES, interval_of
from headsweep.reports.tables import BELOW, Entry
from headsweep.seeding import derive

USUAL = ("none", "pure", "nothing")  # what methods are compared with unasked: the first there is
ENOUGH = 3  # victims, for an interval
STUCK = "‡"
LEGEND = (
    "Excess LFR left, in points, and in brackets the change of ACC; seeds averaged. "
    f"{BELOW}: below the accuracy allowed on some seed. {STUCK}: no head could go on some seed."
)
PAIRED = (
    "Beside: the mean over victims, on the seeds of both, of what is left more, and of the change "
    "of ACC; 95% interval by a bootstrap over victims, from three on."
)
Names = tuple[str, str, str]  # model, data, attack


@dataclass(frozen=True)
class Ending:
    """What a method left of a victim, seeds averaged.

    Attributes:
        left: excess LFR.
        change: of ACC.
        seconds: it took.
        mark: that something is to be known of it.
        seeds: what it left, and the change of ACC, by seed.

    """

    left: float
    change: float
    seconds: float
    mark: str = ""
    seeds: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """What a table says: points left, and of accuracy."""
        return f"{100 * self.left:+.1f} ({100 * self.change:+.1f}){self.mark}"


@dataclass(frozen=True)
class Across:
    """Every method on every victim.

    Attributes:
        before: excess LFR of each victim, by name.
        ends: what each method ended with, by method and victim.
        beside: the method that others are compared with.
        released: the methods that only replicate what released scripts do.

    """

    before: Mapping[str, float]
    ends: Mapping[str, Mapping[str, Ending]]
    beside: str
    released: frozenset[str] = frozenset()

    def last(self, method: str) -> bool:
        """Tell whether a method is there for replication only, and so stands last."""
        return method in self.released

    def tried_on(self, method: str) -> int:
        """Return on how many victims and seeds a method was tried."""
        return sum(len(end.seeds) for end in self.ends[method].values())

    def tried(self, methods: Iterable[str]) -> int:
        """Return on how many victims and seeds any of some methods was tried."""
        each = (self.ends[method].items() for method in methods)
        return len({(victim, s) for own in each for victim, end in own for s in end.seeds})

    @property
    def most(self) -> int:
        """On how many any method was tried."""
        return self.tried(self.ends)

    def apart(self, method: str) -> tuple[list[float], list[float]]:
        """Return how much more a method left than ``beside``, and how much higher its ACC changed.

        Of each victim of both, a mean over the seeds of both.
        """
        more, higher = list[float](), list[float]()
        for name, own in self.ends[method].items():
            end = self.ends[self.beside].get(name)
            theirs = {} if end is None else end.seeds
            both = [(mine, theirs[seed]) for seed, mine in own.seeds.items() if seed in theirs]
            if both:
                more.append(mean(one[0] - other[0] for one, other in both))
                higher.append(mean(one[1] - other[1] for one, other in both))
        return more, higher


def across(cells: Sequence[Form], beside: str | None = None) -> Across | None:
    """Return every method on every victim; None for cells of a single victim.

    Args:
        cells: finished cells, as ``read_results`` gives them.
        beside: the method to compare with; None: the first of ``USUAL`` that there is.

    Raises:
        UserError: there is no such method.

    """
    groups: dict[str, dict[Names, list[Form]]] = {}
    for cell in cells:
        names = (cell["model"], cell["data"], cell["attack"])
        groups.setdefault(cell["method"], {}).setdefault(names, []).append(cell)
    if beside is not None:
        lookup(beside, groups, "method of these results")
    victims = sorted({names for own in groups.values() for names in own})
    if len(victims) < 2:
        return None
    called = dict(zip(victims, _shortened(victims), strict=True))
    ends = {
        method: {called[names]: _ending(own[names]) for names in victims if names in own}
        for method, own in groups.items()
    }
    known: dict[Names, dict[int, float]] = {names: {} for names in victims}
    for own in groups.values():
        for names, made in own.items():
            known[names] |= {c["seed"]: c["before"]["excess_lfr"]["value"] for c in made}
    before = {called[names]: _mean(seeds.values()) for names, seeds in known.items()}
    usual = next((name for name in USUAL if name in ends), min(ends))
    released = {cell["method"] for cell in cells if is_replication(cell["base"])}
    return Across(before, ends, beside or usual, frozenset(released))


def _shortened(victims: Sequence[Names]) -> list[str]:
    """Return names of what differs: the attack alone, where model and data are the same."""
    kept = [i for i in range(3) if len({names[i] for names in victims}) > 1]
    return [", ".join(names[i] for i in kept) for names in victims]


def _ending(cells: Sequence[Form]) -> Ending:
    stuck = any(cell["status"] == "nothing pruned" for cell in cells)
    mark = BELOW * any(map(is_below, cells)) + STUCK * stuck
    return Ending(
        _mean(cell["after"]["excess_lfr"]["value"] for cell in cells),
        _mean(_change(cell) for cell in cells),
        _mean(cell["seconds"]["all"] + shared_cost(cell, "seconds") for cell in cells),
        mark,
        {c["seed"]: (c["after"]["excess_lfr"]["value"], _change(c)) for c in cells},
    )


def _change(cell: Form) -> float:
    return float(cell["after"]["accuracy"]["value"] - cell["before"]["accuracy"]["value"])


def _mean(values: Iterable[float]) -> float:
    return float(mean(values))


def summary(found: Across) -> tuple[list[str], list[list[Entry]]]:
    """Return titles and rows: a method over its victims, least left first, replications last.

    A method that was not tried on as many victims and seeds as others stands behind these, and says
    on how many: its mean is of easier victims, or of harder ones.
    """
    titles = ["method", "victims", "excess LFR left, mean", "worst", "ACC, mean change", "seconds",
              f"beside {found.beside}", "less on"]  # fmt: skip
    rows = [_summed(found, method) for method in found.ends]

    def place(row: list[Entry]) -> tuple[bool, bool, Any]:
        name = row[0].text
        return found.last(name), found.tried_on(name) < found.most, row[2].value

    return titles, sorted(rows, key=place)


def _summed(found: Across, method: str) -> list[Entry]:
    ends = found.ends[method].values()
    left, change = [end.left for end in ends], [end.change for end in ends]
    apart, higher = found.apart(method)
    took = median(end.seconds for end in ends)
    runs = found.tried_on(method)
    marks = "".join(mark for mark in (BELOW, STUCK) if any(mark in end.mark for end in ends))
    tried = f"{len(left)}" if runs == found.most else f"{len(left)} ({runs} of {found.most} cells)"
    less, differs = sum(each < 0 for each in apart), method != found.beside and bool(apart)
    told = f"{paired(apart)}, ACC {100 * mean(higher):+.1f}" if differs else ""
    return [
        Entry(method, method),
        Entry(tried, runs),
        Entry(f"{100 * mean(left):+.1f}", mean(left)),
        Entry(f"{100 * max(left):+.1f}", max(left)),
        Entry(f"{100 * mean(change):+.1f}{marks}", mean(change)),
        Entry(f"{took:.0f}", took),
        Entry(told or "-", mean(apart) if apart else 1e9),
        Entry(f"{less} of {len(apart)}" if differs else "-", less),
    ]


def paired(apart: Sequence[float]) -> str:
    """Return a mean of differences in points, with its interval where there are enough."""
    value = mean(apart)
    if len(apart) < ENOUGH:
        return f"{100 * value:+.1f}"
    found = interval(apart)
    return f"{100 * value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def interval(apart: Sequence[float]) -> Rate:
    """Return a mean with its 95% interval, victims drawn anew."""
    random = np.random.default_rng(derive(0, "across"))
    rows = random.integers(0, len(apart), (RESAMPLES, len(apart)))
    return interval_of(mean(apart), np.asarray(apart)[rows].mean(1))


def by_victim(found: Across) -> tuple[list[str], list[list[Entry]]]:
    """Return titles and rows: what a method left of each victim; first, the victims as they are."""
    titles = ["method", *found.before]
    rows = [_row(method, ends, found.before) for method, ends in found.ends.items()]
    first: list[Entry] = [Entry("as it is", "")]
    first += [Entry(f"{100 * value:+.1f}", value) for value in found.before.values()]
    return titles, [first, *sorted(rows, key=lambda row: (found.last(row[0].text), row[0].value))]


def _row(method: str, ends: Mapping[str, Ending], victims: Iterable[str]) -> list[Entry]:
    row: list[Any] = [Entry(method, method)]
    for name in victims:
        end = ends.get(name)
        row.append(Entry("-", 1e9) if end is None else Entry(end.told, end.left))
    return row
