"""A decision from a part of the examples, with a bound on how often it is wrong.

Examples are looked at in random order without replacement. Of N examples R are right; with a
uniform prior over R, the ratio of prior to posterior at the true R is a martingale, and by
Ville's inequality it ever reaches 1 / error with probability at most ``error`` (Waudby-Smith and
Ramdas 2020, *Confidence sequences for sampling without replacement*, section 2). So the counts
whose ratio stays below 1 / error are a confidence sequence: it may be looked at after every
example and the guarantee holds. A mask is decided once the sequence lies on one side of the
bound. The guarantee is for one mask; for m masks the errors add up to at most m * error.
"""

from __future__ import annotations

import math


def decided(right: int, wrong: int, total: int, need: int, error: float) -> bool | None:
    """Tell whether at least ``need`` of all are right; None while the sequence holds both.

    Args:
        right: how many of those seen so far, in random order, are right.
        wrong: how many of them are not.
        total: how many examples there are.
        need: the bound, a count.
        error: the probability of a wrong answer allowed, over all looks together.

    """
    if right >= need:
        return True
    if total - wrong < need:
        return False
    likeliest = mode(right, wrong, total)
    if need <= likeliest and excluded(need - 1, right, wrong, total, error):
        return True
    if likeliest < need and excluded(need, right, wrong, total, error):
        return False
    return None


def excluded(count: int, right: int, wrong: int, total: int, error: float) -> bool:
    """Tell whether the confidence sequence leaves out that ``count`` of all are right."""
    prior = -math.log(total + 1)
    return prior - log_posterior(count, right, wrong, total) >= -math.log(error)


def log_posterior(count: int, right: int, wrong: int, total: int) -> float:
    """Return log P(count of all are right | seen), from a uniform prior: beta-binomial."""
    left, more = total - right - wrong, count - right
    if not 0 <= more <= left:
        return -math.inf
    choose = math.lgamma(left + 1) - math.lgamma(more + 1) - math.lgamma(left - more + 1)
    ahead = _log_beta(right + more + 1, wrong + left - more + 1)
    return choose + ahead - _log_beta(right + 1, wrong + 1)


def mode(right: int, wrong: int, total: int) -> int:
    """Return the likeliest count of all: the share seen, carried on."""
    seen = right + wrong
    return right if not seen else right + math.floor((total - seen + 1) * right / seen)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
