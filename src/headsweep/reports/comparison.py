"""Compare methods over a grid's cells: spreads over seeds, paired differences, ranks.

Everything rests on the answers that cells keep. A resample draws validation and triggered texts
anew, the same for every method and seed, and chooses each shift again, so differences are paired
over texts. With five seeds or more it draws the seeds anew too, and its intervals speak of further
seeds; with fewer they speak of these victims only, every seed is shown, and no winner is named.

Each method is compared with PURE and with the random control whose head count is nearest, by the
difference of mean excess LFR; p-values of one setting are corrected together (Holm 1979). A method
is called better only where the interval of the difference lies below zero and the corrected p is
below 0.05.

As-released forms replicate scripts. They are neither ranked nor compared with the controls; each
stands beside its faithful form on the same seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headsweep.bench.results.reading import Results
from headsweep.judge.statistics import LEVEL, Rate, holm
from headsweep.progress import Progress, Silent
from headsweep.reports.resampling import (
    ENOUGH,
    RESAMPLES,
    Draws,
    Floats,
    Form,
    interval_of,
    p_value,
    ranks_of,
)

REPLICATION = "-as-released"  # ends the names of strategies that are kept for replication only
Key = tuple[str, int]  # a method and a seed


@dataclass(frozen=True)
class Spread:
    """One value a seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float | None:
        """Their sample standard deviation; None for a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Standing:
    """One method in one setting.

    Attributes:
        method: its name in the recipe.
        base, kind: the strategy or defense behind it.
        seeds: the seeds it was run with.
        pruned: units pruned, 0 where none could be; None where the method prunes nothing.
        units: how many there were to prune; None where the method prunes nothing.
        accuracy, lfr, cfr, matched, excess: one value a seed.
        accuracy_bounds: the seeds' Wilson intervals of ACC, their ends averaged.
        interval: mean excess LFR with its 95% interval (module docstring).
        rank, rank_interval: among the methods with every seed, 1 = least excess; None for others.
        seconds, cpu_seconds: one value a seed, as if the method had shared nothing.
        stuck: seeds on which nothing could be pruned.
        below: seeds on which the result is less accurate on validation texts than allowed.

    """

    method: str
    base: str
    kind: str
    seeds: tuple[int, ...]
    pruned: Spread | None
    units: int | None
    accuracy: Spread
    accuracy_bounds: tuple[float, float]
    lfr: Spread
    cfr: Spread
    matched: Spread
    excess: Spread
    interval: Rate
    rank: int | None
    rank_interval: tuple[int, int] | None
    seconds: Spread
    cpu_seconds: Spread
    stuck: tuple[int, ...] = ()
    below: tuple[int, ...] = ()


@dataclass(frozen=True)
class Difference:
    """Mean excess LFR of a method minus that of another, over the seeds of both."""

    method: str
    against: str  # "random" or "pure"
    others: tuple[str, ...]  # what it was compared with, by name
    value: Rate
    p: float
    corrected: float
    seeds: tuple[int, ...] = ()  # that both were tried on

    @property
    def verdict(self) -> str:
        """Say what the difference shows: ``better``, ``worse`` or ``not shown``."""
        if self.corrected < 1 - LEVEL and self.value.high < 0:
            return "better"
        return "worse" if self.corrected < 1 - LEVEL and self.value.low > 0 else "not shown"


@dataclass(frozen=True)
class Replication:
    """An as-released form beside its faithful form, on the seeds of both."""

    standing: Standing
    faithful: str | None  # None: the grid has none
    difference: Rate | None  # of mean excess LFR, to the faithful form


@dataclass(frozen=True)
class Setting:
    """One model, data set and attack."""

    model: str
    data: str
    attack: str
    seeds: tuple[int, ...]
    floor: Spread
    before: Spread  # excess LFR of the victims
    twin_accuracy: Spread
    twin_cfr: Spread
    standings: tuple[Standing, ...]
    differences: tuple[Difference, ...]
    replications: tuple[Replication, ...] = ()

    @property
    def everything(self) -> tuple[Standing, ...]:
        """Every method's standing, the as-released forms last."""
        return (*self.standings, *(one.standing for one in self.replications))

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.model}, {self.data}, {self.attack}"

    @property
    def speaks_of_seeds(self) -> bool:
        """True when there are enough seeds to speak of others than these."""
        return len(self.seeds) >= ENOUGH

    @property
    def winner(self) -> str | None:
        """The method of the best rank in 95% of resamples; None with too few seeds."""
        if not self.speaks_of_seeds:
            return None
        first = [s.method for s in self.standings if s.rank_interval == (1, 1)]
        return first[0] if len(first) == 1 else None


def compare(
    results: Results, resamples: int = RESAMPLES, progress: Progress | None = None
) -> list[Setting]:
    """Return every setting of the results, compared."""
    groups: dict[tuple[str, str, str], list[Form]] = {}
    for cell in results.cells:
        groups.setdefault((cell["model"], cell["data"], cell["attack"]), []).append(cell)
    with (progress or Silent()).task("comparing", len(results.cells)) as tick:
        return [
            _setting(names, cells, results.victims, resamples, tick)
            for names, cells in sorted(groups.items())
        ]


def _setting(
    names: tuple[str, str, str],
    cells: Sequence[Form],
    victims: Mapping[str, Form],
    resamples: int,
    tick: Any,
) -> Setting:
    seeds = tuple(sorted({cell["seed"] for cell in cells}))
    of = {(cell["method"], cell["seed"]): cell for cell in cells}
    draws = Draws.of(cells, victims, resamples, tick)
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    released = {cell["method"]: cell["base"] for cell in cells if is_replication(cell["base"])}
    ranked = [m for m in methods if m not in released]
    means = {m: draws.mean([(m, seed) for seed in seeds if (m, seed) in of]) for m in methods}
    whole = [m for m in ranked if all((m, seed) in of for seed in seeds)]
    ranks = ranks_of({m: means[m] for m in whole})
    standings = {
        m: _standing([of[m, s] for s in seeds if (m, s) in of], means[m], ranks.get(m))
        for m in methods
    }
    replications = [_replication(standings[m], base, of, draws) for m, base in released.items()]
    by_seed = {cell["seed"]: cell["victim"] for cell in cells}
    known = [victims[by_seed[seed]] for seed in seeds]
    return Setting(
        *names,
        seeds,
        _spread([v["evaluation"]["twin"] for v in known], "lfr"),
        _spread([v["evaluation"]["suspect"] for v in known], "excess_lfr"),
        _spread([v["evaluation"]["twin"] for v in known], "accuracy"),
        _spread([v["evaluation"]["twin"] for v in known], "cfr"),
        tuple(
            sorted((standings[m] for m in ranked), key=lambda s: (s.rank is None, s.excess.mean))
        ),
        tuple(_differences(of, seeds, ranked, draws)),
        tuple(replications),
    )


def is_replication(base: str) -> bool:
    """Tell whether a strategy only replicates what released scripts do."""
    return base.endswith(REPLICATION)


def _replication(
    standing: Standing, base: str, of: Mapping[Key, Form], draws: Draws
) -> Replication:
    wanted = base.removesuffix(REPLICATION)
    named = sorted({(m != wanted, m) for (m, _), cell in of.items() if cell["base"] == wanted})
    faithful = named[0][1] if named else ""
    seeds = [seed for seed in standing.seeds if (faithful, seed) in of]
    if not seeds:
        return Replication(standing, None, None)
    own, drawn = draws.mean([(standing.method, seed) for seed in seeds])
    theirs, others = draws.mean([(faithful, seed) for seed in seeds])
    return Replication(standing, faithful, interval_of(own - theirs, drawn - others))


def _spread(forms: Sequence[Form], name: str) -> Spread:
    return Spread(tuple(float(form[name]["value"]) for form in forms))


def _mean(forms: Sequence[Form], end: str) -> float:
    return float(np.mean([form["accuracy"][end] for form in forms]))


def _left(mean: tuple[float, Floats], forms: Sequence[Form]) -> Rate:
    """Return mean excess LFR; where all resamples are alike, with the ends of the cells' own."""
    found = interval_of(*mean)
    if found.low < found.high:
        return found
    ends = [float(np.mean([form["excess_lfr"][end] for form in forms])) for end in ("low", "high")]
    return Rate(found.value, min(ends[0], found.low), max(ends[1], found.high))


def _standing(
    cells: Sequence[Form],
    mean: tuple[float, Floats],
    rank: tuple[int, tuple[int, int]] | None,
) -> Standing:
    after = [cell["after"] for cell in cells]
    stuck = [cell for cell in cells if cell.get("status") == "nothing pruned"]
    counts = [cell.get("pruned_count", 0) for cell in cells if "pruned_count" in cell or stuck]
    first = cells[0]
    return Standing(
        first["method"],
        first["base"],
        first["kind"],
        tuple(cell["seed"] for cell in cells),
        Spread(tuple(map(float, counts))) if counts else None,
        next((cell["units"] for cell in cells if "units" in cell), None) if counts else None,
        _spread(after, "accuracy"),
        (_mean(after, "low"), _mean(after, "high")),
        _spread(after, "lfr"),
        _spread(after, "cfr"),
        _spread(after, "matched_lfr"),
        _spread(after, "excess_lfr"),
        _left(mean, after),
        None if rank is None else rank[0],
        None if rank is None else rank[1],
        Spread(tuple(cell["seconds"]["all"] + shared_cost(cell, "seconds") for cell in cells)),
        Spread(tuple(cell["cpu_seconds"] + shared_cost(cell, "cpu_seconds") for cell in cells)),
        tuple(cell["seed"] for cell in stuck),
        tuple(cell["seed"] for cell in cells if is_below(cell)),
    )


def is_below(cell: Form) -> bool:
    """Tell whether a cell ended less accurate on validation texts than allowed."""
    allowed, found = cell.get("bound"), cell.get("validation")
    return bool(allowed and found and found["after"]["accuracy"] < allowed["min_accuracy"] - 1e-9)


def shared_cost(cell: Form, name: str) -> float:
    """Return what scores taken from another cell's work would have cost this one."""
    return float(sum(one[name] for one in cell.get("shared_scores") or ()))


def _differences(
    of: Mapping[Key, Form],
    seeds: Sequence[int],
    methods: Sequence[str],
    draws: Draws,
) -> list[Difference]:
    """Compare each method with PURE and with the nearest random control, seed by seed."""
    found: list[Difference] = []
    for method in methods:
        for against in ("random", "pure"):
            pairs = [
                ((method, seed), other)
                for seed in seeds
                if (method, seed) in of and of[method, seed]["base"] != against
                if (other := _other(of, against, method, seed)) is not None
            ]
            if not pairs:
                continue
            own, drawn = draws.mean([one for one, _ in pairs])
            theirs, others = draws.mean([other for _, other in pairs])
            difference = drawn - others
            value = interval_of(own - theirs, difference)
            names = tuple(sorted({name for _, (name, _) in pairs}))
            p = p_value(difference)
            shared = tuple(seed for (_, seed), _ in pairs)
            found.append(Difference(method, against, names, value, p, p, shared))
    corrected = holm([one.p for one in found])
    return [replace(one, corrected=c) for one, c in zip(found, corrected, strict=True)]


def _other(of: Mapping[Key, Form], base: str, method: str, seed: int) -> Key | None:
    """Return the cell of a base that a method is compared with: the nearest head count.

    A method that prunes no heads, or other units, counts as none.
    """
    own = of[method, seed]

    def count(cell: Form) -> int:
        return int(cell.get("pruned_count", 0))

    def distance(key: Key) -> int:
        other = of[key]
        alike = own.get("units") == other.get("units")
        return abs(count(other) - (count(own) if alike else 0))

    options = [key for key, cell in of.items() if key[1] == seed and cell["base"] == base]
    return min(options, key=lambda k: (distance(k), k[0]), default=None)
