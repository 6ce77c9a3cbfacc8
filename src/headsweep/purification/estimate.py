"""How long the rest takes, from one timed pass."""

from __future__ import annotations

import math

from headsweep.progress import duration
from headsweep.prune.search import default_step
from headsweep.prune.view import DefenderView
from headsweep.purification.method import Method


def estimate(view: DefenderView, method: Method, seconds_an_example: float) -> str:
    """Return a line that says about how long the rest takes: from one healing to all of them."""
    faster = 1.5 if view.runtime.trains_in_bf16() else 1.0
    pace = seconds_an_example / faster
    heal = method.healing.work(len(view.train)) * pace
    more = method.healing.tries if method.binds else 0
    of = (
        f"({len(view.train)} training, {len(view.validation)} validation examples, "
        f"{_bound(view, method)})"
    )
    searches = method.pruning.needs.searches
    if searches is None:
        span = _span(heal, heal * (1 + more))
        return f"a search of unknown length, then about {span} of healing {of}"
    step = default_step(view.layout.units)
    passes = searches * (math.log2(1 + view.layout.units / step) + step / 4)
    search = passes * len(view.validation) * pace
    told = f"search {duration(search)}, healing {duration(heal)}"
    told += (
        f", again at half the rate where the bound is missed ({more} times at most)" if more else ""
    )
    return f"about {_span(search + heal, search + heal * (1 + more))} to go: {told} {of}"


def _bound(view: DefenderView, method: Method) -> str:
    bound, words = method.bound, view.validation.task.words
    share = words.share
    if bound is None or not method.binds:
        return f"no bound on {share}"
    if words.bounded:
        searches = method.pruning.needs.pruning and method.pruning.needs.bound
        drop = bound.drop(len(view.validation), words)
        far = f"{drop:.2g} below its own"
        own = f"{words.bounded_name} at most {f'{drop:.2%} above its own' if words.falls else far}"
        if bound.min_accuracy is not None:
            own = f"{words.bounded_name} as much worse as {share} at {bound.min_accuracy:g}"
        pruned = f"min {share} while pruning {view.min_accuracy:.4f}, "
        return f"{pruned * searches}{own}"
    apart = bound.prune_drop is not None or bound.drop(len(view.validation)) != bound.asked_drop
    lowest = f"min {share} while pruning" if apart else f"min {share}"
    return f"{lowest} {view.min_accuracy:.4f}"


def _span(least: float, most: float) -> str:
    """Return a time, or a range where the two differ as people write them."""
    ends = dict.fromkeys((duration(least), duration(most)))
    return " to ".join(ends)
