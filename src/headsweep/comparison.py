"""Compare methods over a grid's cells: spreads over seeds, paired differences, ranks.

Everything rests on the answers that cells keep. A resample draws validation and triggered texts
anew, the same for every method and seed, and chooses each shift again, so differences are paired
over texts. With five seeds or more it draws the seeds anew too, and its intervals speak of further
seeds; with fewer they speak of these victims only, every seed is shown, and no winner is named.

Each method is compared with PURE and with the random control whose head count is nearest, by the
difference of mean excess LFR; p-values of one setting are corrected together (Holm 1979). A method
is called better only where the interval of the difference lies below zero and the corrected p is
below 0.05.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headsweep.bench.packing import Packed
from headsweep.bench.results import Results
from headsweep.progress import Progress, Silent
from headsweep.seeding import derive
from headsweep.statistics import LEVEL, Margins, Rate, holm, matched_rate

ENOUGH = 5  # seeds to speak of seeds in general
RESAMPLES = 2000
Form = Mapping[str, Any]
Floats = NDArray[np.float64]


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
        pruned: heads pruned; None where nothing is.
        accuracy, lfr, cfr, matched, excess: one value a seed.
        accuracy_bounds: the seeds' Wilson intervals of ACC, their ends averaged.
        interval: mean excess LFR with its 95% interval (module docstring).
        rank, rank_interval: among the methods with every seed, 1 = least excess; None for others.
        seconds: one value a seed.

    """

    method: str
    base: str
    kind: str
    seeds: tuple[int, ...]
    pruned: Spread | None
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


@dataclass(frozen=True)
class Difference:
    """Mean excess LFR of a method minus that of another, over the seeds of both."""

    method: str
    against: str  # "random" or "pure"
    value: Rate
    p: float
    corrected: float

    @property
    def verdict(self) -> str:
        """Say what the difference shows: ``better``, ``worse`` or ``not shown``."""
        if self.corrected < 1 - LEVEL and self.value.high < 0:
            return "better"
        return "worse" if self.corrected < 1 - LEVEL and self.value.low > 0 else "not shown"


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
    standings: tuple[Standing, ...]
    differences: tuple[Difference, ...]

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
        return first[0] if first else None


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
    means = {
        method: draws.mean([(method, seed) for seed in seeds if (method, seed) in of])
        for method in methods
    }
    whole = [m for m in methods if all((m, seed) in of for seed in seeds)]
    ranks = _ranks({method: means[method] for method in whole})
    standings = [
        _standing([of[m, s] for s in seeds if (m, s) in of], means[m], ranks.get(m))
        for m in methods
    ]
    known = [victims[cell["victim"]] for cell in {c["seed"]: c for c in cells}.values()]
    return Setting(
        *names,
        seeds,
        _spread([v["evaluation"]["twin"] for v in known], "lfr"),
        _spread([v["evaluation"]["suspect"] for v in known], "excess_lfr"),
        _spread([v["evaluation"]["twin"] for v in known], "accuracy"),
        tuple(sorted(standings, key=lambda s: (s.rank is None, s.excess.mean))),
        tuple(_differences(of, seeds, methods, draws)),
    )


@dataclass(frozen=True)
class Draws:
    """Excess LFR of every cell of a setting: measured, and in every resample."""

    measured: dict[tuple[str, int], float]
    drawn: dict[tuple[str, int], Floats]  # [resample]
    weights: dict[int, Floats] | None  # of a seed in each resample; None: all alike

    @classmethod
    def of(
        cls, cells: Sequence[Form], victims: Mapping[str, Form], resamples: int, tick: Any
    ) -> Draws:
        """Draw texts (and seeds, where there are enough) and measure every cell on them."""
        random = np.random.default_rng(derive(0, "comparison"))
        twins = {name: Packed.from_json(v["answers"]["twin"]) for name, v in victims.items()}
        some = twins[cells[0]["victim"]]
        nv, nt = len(some.validation), len(some.triggered)
        rows = [(random.integers(0, nv, nv), random.integers(0, nt, nt)) for _ in range(resamples)]
        seeds = sorted({cell["seed"] for cell in cells})
        weights = None
        if len(seeds) >= ENOUGH:
            share = np.full(len(seeds), 1 / len(seeds))
            counts = random.multinomial(len(seeds), share, resamples) / len(seeds)
            weights = {seed: counts[:, i] for i, seed in enumerate(seeds)}
        measured, drawn = {}, {}
        for cell in cells:
            key = (cell["method"], cell["seed"])
            own = Packed.from_json(cell["answers"]["after"]).margins
            twin = twins[cell["victim"]].margins
            measured[key] = _excess(own, twin)
            drawn[key] = np.array([_excess(_take(own, r), _take(twin, r)) for r in rows])
            tick(1, "")
        return cls(measured, drawn, weights)

    def mean(self, keys: Sequence[tuple[str, int]]) -> tuple[float, Floats]:
        """Return the mean over cells, measured and in every resample."""
        value = float(np.mean([self.measured[key] for key in keys]))
        values = np.stack([self.drawn[key] for key in keys])
        if self.weights is None:
            return value, values.mean(0)
        weights = np.stack([self.weights[seed] for _, seed in keys])
        total = weights.sum(0)
        weights = np.where(total > 0, weights, 1.0)  # none of these seeds drawn: all alike
        return value, (values * weights).sum(0) / weights.sum(0)


def _take(margins: Margins, rows: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Margins:
    return Margins(margins.validation[rows[0]], margins.triggered[rows[1]])


def _excess(own: Margins, twin: Margins) -> float:
    return matched_rate(own, twin.validation) - float((twin.triggered > 0).mean())


def _interval(value: float, drawn: Floats) -> Rate:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Rate(value, min(float(low), value), max(float(high), value))


def _ranks(means: Mapping[str, tuple[float, Floats]]) -> dict[str, tuple[int, tuple[int, int]]]:
    """Return rank and its 95% interval of each method; equal ones share the better rank."""
    if not means:
        return {}
    values = np.array([value for value, _ in means.values()])
    drawn = np.stack([draws for _, draws in means.values()])  # [method, resample]
    found = {}
    for i, method in enumerate(means):
        rank = 1 + int((values < values[i] - 1e-12).sum())
        each = 1 + (drawn < drawn[i] - 1e-12).sum(0)
        low, high = np.quantile(each, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        found[method] = (rank, (int(low), int(np.ceil(high))))
    return found


def _spread(forms: Sequence[Form], name: str) -> Spread:
    return Spread(tuple(float(form[name]["value"]) for form in forms))


def _mean(forms: Sequence[Form], end: str) -> float:
    return float(np.mean([form["accuracy"][end] for form in forms]))


def _standing(
    cells: Sequence[Form],
    mean: tuple[float, Floats],
    rank: tuple[int, tuple[int, int]] | None,
) -> Standing:
    after = [cell["after"] for cell in cells]
    counts = [cell["pruned_count"] for cell in cells if "pruned_count" in cell]
    first = cells[0]
    return Standing(
        first["method"],
        first["base"],
        first["kind"],
        tuple(cell["seed"] for cell in cells),
        Spread(tuple(map(float, counts))) if counts else None,
        _spread(after, "accuracy"),
        (_mean(after, "low"), _mean(after, "high")),
        _spread(after, "lfr"),
        _spread(after, "cfr"),
        _spread(after, "matched_lfr"),
        _spread(after, "excess_lfr"),
        _interval(*mean),
        None if rank is None else rank[0],
        None if rank is None else rank[1],
        Spread(tuple(float(cell["seconds"]["all"]) for cell in cells)),
    )


def _differences(
    of: Mapping[tuple[str, int], Form],
    seeds: Sequence[int],
    methods: Sequence[str],
    draws: Draws,
) -> list[Difference]:
    """Compare each method with PURE and with the nearest random control, seed by seed."""
    found: list[tuple[str, str, Rate, float]] = []
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
            value = _interval(own - theirs, difference)
            found.append((method, against, value, _p_value(difference)))
    corrected = holm([p for *_, p in found])
    return [
        Difference(method, against, value, p, c)
        for (method, against, value, p), c in zip(found, corrected, strict=True)
    ]


def _other(
    of: Mapping[tuple[str, int], Form], base: str, method: str, seed: int
) -> tuple[str, int] | None:
    """Return the cell of a base that a method is compared with: the nearest head count."""
    count = of[method, seed].get("pruned_count", 0)
    options = [key for key, cell in of.items() if key[1] == seed and cell["base"] == base]
    return min(
        options, key=lambda k: (abs(of[k].get("pruned_count", 0) - count), k[0]), default=None
    )


def _p_value(difference: Floats) -> float:
    """Return the two-sided bootstrap p of a difference of zero."""
    fewer = min(int((difference <= 0).sum()), int((difference >= 0).sum()))
    return min(1.0, 2 * (1 + fewer) / (len(difference) + 1))
