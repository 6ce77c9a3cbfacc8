"""Rates with intervals, and the threshold shift that makes label flip rates comparable.

Plain proportions get Wilson's interval (Wilson 1927). Matched and excess LFR get a paired
bootstrap over texts in which the shift is chosen again in every resample. The area under the ROC
curve of a detector gets a bootstrap over both groups of texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, rankdata

from headsweep.seeding import derive

LEVEL = 0.95
MOST_NLL = 700.0  # nats: beyond it a perplexity is no float
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """A fraction with its 95% interval; ``hits`` of ``total`` where it is a proportion."""

    value: float
    low: float
    high: float
    hits: int | None = None
    total: int | None = None

    def __post_init__(self) -> None:
        if not self.low <= self.high or not np.isfinite([self.value, self.low, self.high]).all():
            raise ValueError(f"not a rate: {self}")


@dataclass(frozen=True)
class Truncated:
    """How many of a file's texts were cut at the maximum length."""

    cut: int
    texts: int


@dataclass(frozen=True)
class Line:
    """One measure as people read it: its name, its value, what it is, and whether it is a share."""

    name: str
    rate: Rate | None
    what: str
    share: bool = True


class Judged(Protocol):
    """What was measured of a model of some kind: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def truncated(self) -> Mapping[str, Truncated] | None:
        """By part of the exam, how many texts were cut."""

    def lines(self) -> list[Line]:
        """Return the measures; those without a value were not asked for."""

    def remarks(self) -> list[str]:
        """Return what else is to be said of them."""


def proportion(hits: int, total: int) -> Rate:
    """Return ``hits / total`` with Wilson's interval; total must be positive."""
    if not 0 <= hits <= total or total == 0:
        raise ValueError(f"{hits} of {total} is not a proportion")
    interval = binomtest(hits, total).proportion_ci(LEVEL, method="wilson")
    low, high = max(0.0, float(interval.low)), min(1.0, float(interval.high))
    return Rate(hits / total, min(low, hits / total), max(high, hits / total), hits, total)


def auroc(positive: Floats, negative: Floats, resamples: int = 2000, seed: int = 0) -> Rate:
    """Return the chance that a positive's score is above a negative's, ties counting half.

    That is the Mann-Whitney statistic by its largest value. The interval is a bootstrap over
    both groups.
    """

    def area(high: Floats, low: Floats) -> float:
        ranks = rankdata(np.concatenate([high, low]))[: len(high)]
        return float((ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(high) * len(low)))

    if not len(positive) or not len(negative):
        raise ValueError("AUROC of an empty group")
    random = np.random.default_rng(derive(seed, "auroc"))
    draws = np.array(
        [
            area(
                random.choice(positive, len(positive)),
                random.choice(negative, len(negative)),
            )
            for _ in range(resamples)
        ]
    )
    return _interval(area(positive, negative), draws)


def matching_shift(margins: Floats, flips: int) -> float:
    """Return the shift s for which ``flips`` of the margins satisfy margin + s > 0.

    ``margins`` are target logit minus best other logit, on clean validation examples whose
    label is not the target. No shift where none is needed, else the middle between two
    neighbouring margins; where ties make the count impossible, the nearest possible one, the
    lower of two equally near.
    """
    if int((margins > 0).sum()) == flips:
        return 0.0
    ranked = np.sort(margins)[::-1]
    if flips <= 0:
        return -float(ranked[0]) - 1e-9 if len(ranked) else 0.0
    if flips >= len(ranked):
        return -float(ranked[-1]) + 1e-9
    above, below = ranked[flips - 1], ranked[flips]
    if above > below:
        return -float(above + below) / 2
    less = int((ranked > above).sum())
    more = int((ranked >= above).sum())
    return matching_shift(margins, less if flips - less <= more - flips else more)


@dataclass(frozen=True)
class Margins:
    """Target margins of one model: on clean validation and on triggered non-target texts."""

    validation: Floats  # [validation example]
    triggered: Floats  # [triggered example]


def matched_rate(model: Margins, reference_validation: Floats) -> float:
    """Return the model's LFR after shifting its margins to the reference's clean flip rate."""
    shift = matching_shift(model.validation, int((reference_validation > 0).sum()))
    return float((model.triggered + shift > 0).mean())


def bootstrap_matched(
    model: Margins,
    reference_validation: Floats,
    floor_triggered: Floats | None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Rate, Rate | None]:
    """Return matched LFR and, with a floor model's margins, excess LFR, with intervals.

    Every resample draws validation texts and triggered texts anew, the same for both models,
    and chooses the shift again. Where no text flips or every one, all resamples are alike, and the
    intervals are those of proportions (Wilson's, Newcombe's).
    """
    random = np.random.default_rng(derive(seed, "bootstrap"))
    size, count = len(model.validation), len(model.triggered)
    matched, excess = np.empty(resamples), np.empty(resamples)
    for i in range(resamples):
        v, t = random.integers(0, size, size), random.integers(0, count, count)
        drawn = Margins(model.validation[v], model.triggered[t])
        matched[i] = matched_rate(drawn, reference_validation[v])
        floor = 0.0 if floor_triggered is None else (floor_triggered[t] > 0).mean()
        excess[i] = matched[i] - floor
    value = matched_rate(model, reference_validation)
    plain = proportion(round(value * count), count)
    found = _unless_alike(_interval(value, matched), plain, value)
    if floor_triggered is None:
        return found, None
    theirs = proportion(int((floor_triggered > 0).sum()), count)
    over = _interval(value - theirs.value, excess)
    return found, _unless_alike(over, difference(plain, theirs), value, theirs.value)


def perplexity(nll: Floats, tokens: Floats, resamples: int = 2000, seed: int = 0) -> Rate:
    """Return perplexity a token with a bootstrap over examples.

    Args:
        nll: negative log-likelihood of each example, nats a token.
        tokens: how many tokens each has.
        resamples: how many there are.
        seed: of the bootstrap.

    """
    random = np.random.default_rng(derive(seed, "perplexity"))
    total, size = nll * tokens, len(nll)
    rows = (random.integers(0, size, size) for _ in range(resamples))
    draws = np.array([total[drawn].sum() / tokens[drawn].sum() for drawn in rows])
    value = float(np.exp(min(total.sum() / tokens.sum(), MOST_NLL)))
    return _interval(value, np.exp(np.minimum(draws, MOST_NLL)))


def paired_difference(ours: Floats, theirs: Floats, resamples: int = 2000, seed: int = 0) -> Rate:
    """Return how much higher our share of ones is than theirs, both of the same examples.

    With a bootstrap over examples; where none or all of each are ones, with Newcombe's interval.
    """
    random = np.random.default_rng(derive(seed, "paired"))
    gaps, size = ours - theirs, len(ours)
    draws = np.array([gaps[random.integers(0, size, size)].mean() for _ in range(resamples)])
    one, other = (proportion(int(x.sum()), size) for x in (ours, theirs))
    found = _interval(float(gaps.mean()), draws)
    return _unless_alike(found, difference(one, other), one.value, other.value)


def difference(ours: Rate, theirs: Rate) -> Rate:
    """Return one proportion minus another, with Newcombe's interval (1998, method 10)."""
    value = ours.value - theirs.value
    below = np.hypot(ours.value - ours.low, theirs.high - theirs.value)
    above = np.hypot(ours.high - ours.value, theirs.value - theirs.low)
    return Rate(value, float(value - below), float(value + above))


def bootstrap(
    measure: Callable[..., float], *columns: Floats, resamples: int = 2000, seed: int = 0
) -> Rate:
    """Return a measure of some columns, [example] each, with a bootstrap over the examples."""
    random, size = np.random.default_rng(derive(seed, "measure")), len(columns[0])
    rows = (random.integers(0, size, size) for _ in range(resamples))
    draws = np.array([measure(*(column[drawn] for column in columns)) for drawn in rows])
    return _interval(measure(*columns), draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for multiple testing (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def _unless_alike(found: Rate, plain: Rate, *shares: float) -> Rate:
    """Return a rate; where each share is none or all in every resample, a plain one's interval.

    Of shares between, which are the same text by text, the difference is known to be nothing.
    """
    alike = found.low == found.high and {*shares} <= {0.0, 1.0}
    return Rate(found.value, plain.low, plain.high) if alike else found


def _interval(value: float, draws: Floats) -> Rate:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Rate(value, min(float(low), value), max(float(high), value))
