"""Resamples of a grid's cells: excess LFR measured again on texts (and seeds) drawn anew.

A resample is the same for every method, and for all seeds that equally many texts judge. It
chooses each shift of matched LFR again, so differences between methods are paired over texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headsweep.bench.results.packing import Packed
from headsweep.judge.statistics import LEVEL, Margins, Rate, matched_rate
from headsweep.seeding import derive

ENOUGH = 5  # seeds: with fewer, none are drawn anew, and nothing is said of others
RESAMPLES = 2000
Form = Mapping[str, Any]
Floats = NDArray[np.float64]
Rows = tuple[NDArray[np.int64], NDArray[np.int64]]  # validation and triggered texts


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
        sizes = {name: (len(twin.validation), len(twin.triggered)) for name, twin in twins.items()}
        rows = {  # seeds may be judged by texts of different numbers
            size: [_rows(random, *size) for _ in range(resamples)]
            for size in dict.fromkeys(sizes[cell["victim"]] for cell in cells)
        }
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
            taken = rows[sizes[cell["victim"]]]
            drawn[key] = np.array([_excess(_take(own, r), _take(twin, r)) for r in taken])
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


def _rows(random: np.random.Generator, validation: int, triggered: int) -> Rows:
    return (
        random.integers(0, validation, validation),
        random.integers(0, triggered, triggered),
    )


def _take(margins: Margins, rows: Rows) -> Margins:
    return Margins(margins.validation[rows[0]], margins.triggered[rows[1]])


def _excess(own: Margins, twin: Margins) -> float:
    return matched_rate(own, twin.validation) - float((twin.triggered > 0).mean())


def interval_of(value: float, drawn: Floats) -> Rate:
    """Return a value with the 95% interval of its resamples, [resample]."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Rate(value, min(float(low), value), max(float(high), value))


def ranks_of(means: Mapping[str, tuple[float, Floats]]) -> dict[str, tuple[int, tuple[int, int]]]:
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


def p_value(difference: Floats) -> float:
    """Return the two-sided bootstrap p of a difference of zero."""
    fewer = min(int((difference <= 0).sum()), int((difference >= 0).sum()))
    return min(1.0, 2 * (1 + fewer) / (len(difference) + 1))
