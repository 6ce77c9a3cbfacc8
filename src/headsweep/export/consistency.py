"""Whether a manifest agrees with itself: its figures, its bound and its checks.

Anyone who edits a manifest can edit all of it; this notices what was edited alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headsweep.measure.accuracy import needed
from headsweep.texts.words import limit_of, share_of, words_of

GATED = "zeroed weights give the logits of closed gates"
NO_OTHER = "no other unit is zero"
EVERY_LAYER = "every layer keeps a unit"
STAGES = ("before", "pruned", "after")
ROUNDING = 1e-9


def all_zero(pruned: int) -> str:
    """Return the name of the check that so many pruned units are zero."""
    return f"all weights of the {pruned} pruned units are zero"


def bound_held(figure: str, limit: float, most_or_least: str = "at least") -> str:
    """Return the name of the check of a bound on a figure, in words."""
    return f"validation {figure} is {most_or_least} {limit:.4f}"


def contradictions(manifest: Mapping[str, Any]) -> list[str]:
    """Return what a manifest says against itself; raises KeyError or TypeError where it is torn."""
    return [*_figures(manifest), *_bound(manifest), *_checks(manifest)]


def _figures(manifest: Mapping[str, Any]) -> Iterator[str]:
    data, key = manifest.get("data", {}), words_of(manifest).key
    for part, first in manifest["before"].items():
        examples = data.get(part, first)["examples"]
        for stage in STAGES:
            if stage in manifest:
                yield from _counted(f"{part} {stage}", manifest[stage][part], examples, key)


def _counted(name: str, figures: Mapping[str, Any], examples: int, key: str) -> Iterator[str]:
    right, count, accuracy = figures["right"], figures["examples"], figures[key]
    if count != examples:
        yield f"{name}: {count} examples, not {examples}"
    elif not (0 <= right <= count and abs(right - accuracy * count) <= ROUNDING * count):
        yield f"{name}: {right} right of {count} is not {accuracy:.4f}"


def _bound(manifest: Mapping[str, Any]) -> Iterator[str]:
    bound, before = manifest["bound"], manifest["before"]["validation"]
    after, lowest, drop = manifest["after"]["validation"], bound["min_accuracy"], bound["max_drop"]
    share, words, limit = share_of(before), words_of(manifest), limit_of(manifest)
    if drop is not None and abs(max(share - drop, 0.0) - lowest) > ROUNDING:
        yield f"{drop:.4f} below {share:.4f} is not the bound noted, {lowest:.4f}"
    if not words.bounded:
        if bound["binds"] and after["right"] < needed(lowest, after["examples"]):
            yield f"{after['right']} right of {after['examples']} is below the bound, {lowest:.4f}"
        return
    own, got = (figures[words.bounded] for figures in (before, after))
    drops = {share - lowest, share - lowest if drop is None else drop}  # of older ones, of newer
    if limit is None or all(abs(words.limit(own, one) - limit) > ROUNDING for one in drops):
        yield f"{max(drops):.4f} worse than {own:.4f} is not the bound noted, {limit}"
    elif bound["binds"] and not words.within(got, limit):
        yield f"a {words.bounded_name} of {got:.4f} misses the bound, {limit:.4f}"


def _checks(manifest: Mapping[str, Any]) -> Iterator[str]:
    checks = {check["what"]: check for check in manifest["checks"]}
    bound, after, words = manifest["bound"], manifest["after"]["validation"], words_of(manifest)
    least, limit = bound_held(words.share, bound["min_accuracy"]), limit_of(manifest)
    bounds = {least: (words.share, share_of(after))}
    if words.bounded and limit is not None:
        name, got = words.bounded_name, after[words.bounded]
        worst = {bound_held(name, limit, words.most_or_least): (name, got)}
        bounds = worst | bounds if least in checks else worst  # older ones held both
    expected = {GATED, all_zero(len(manifest["pruned_units"])), NO_OTHER, EVERY_LAYER}
    expected |= set(bounds) if bound["binds"] else set()
    yield from (f"the check '{what}' is missing" for what in sorted(expected - set(checks)))
    yield from (f"the check '{what}' is none of its own" for what in sorted(set(checks) - expected))
    short = after["right"] < needed(bound["min_accuracy"], after["examples"])
    if words.bounded and short and checks.get(least, {}).get("passed"):
        yield f"{after['right']} right of {after['examples']} do not pass the check '{least}'"
    for held, (name, got) in bounds.items():
        if held in checks and not checks[held]["detail"].startswith(f"it is {got:.4f}"):
            yield f"{name} of {got:.4f} after healing is not that of the check of the bound"
    if manifest["verified"] is not all(check["passed"] is True for check in checks.values()):
        yield "'verified' is not what its checks say"
