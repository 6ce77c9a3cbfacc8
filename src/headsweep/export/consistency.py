"""Whether a manifest agrees with itself: its figures, its bound and its checks.

Anyone who edits a manifest can edit all of it; this notices what was edited alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headsweep.measure.accuracy import needed

GATED = "zeroed weights give the logits of closed gates"
NO_OTHER = "no other unit is zero"
EVERY_LAYER = "every layer keeps a unit"
STAGES = ("before", "pruned", "after")
ROUNDING = 1e-9


def all_zero(pruned: int) -> str:
    """Return the name of the check that so many pruned units are zero."""
    return f"all weights of the {pruned} pruned units are zero"


def bound_held(lowest: float) -> str:
    """Return the name of the check of a bound."""
    return f"validation accuracy is at least {lowest:.4f}"


def contradictions(manifest: Mapping[str, Any]) -> list[str]:
    """Return what a manifest says against itself; raises KeyError or TypeError where it is torn."""
    return [*_figures(manifest), *_bound(manifest), *_checks(manifest)]


def _figures(manifest: Mapping[str, Any]) -> Iterator[str]:
    data = manifest.get("data", {})
    for part, first in manifest["before"].items():
        examples = data.get(part, first)["examples"]
        for stage in STAGES:
            if stage in manifest:
                yield from _counted(f"{part} {stage}", manifest[stage][part], examples)


def _counted(name: str, figures: Mapping[str, Any], examples: int) -> Iterator[str]:
    right, count, accuracy = figures["right"], figures["examples"], figures["accuracy"]
    if count != examples:
        yield f"{name}: {count} examples, not {examples}"
    elif not (0 <= right <= count and abs(right - accuracy * count) <= ROUNDING * count):
        yield f"{name}: {right} right of {count} is not {accuracy:.4f}"


def _bound(manifest: Mapping[str, Any]) -> Iterator[str]:
    bound, before = manifest["bound"], manifest["before"]["validation"]
    after, lowest, drop = manifest["after"]["validation"], bound["min_accuracy"], bound["max_drop"]
    if drop is not None and abs(max(before["accuracy"] - drop, 0.0) - lowest) > ROUNDING:
        yield f"{drop:.4f} below {before['accuracy']:.4f} is not the bound noted, {lowest:.4f}"
    if bound["binds"] and after["right"] < needed(lowest, after["examples"]):
        yield f"{after['right']} right of {after['examples']} is below the bound, {lowest:.4f}"


def _checks(manifest: Mapping[str, Any]) -> Iterator[str]:
    checks = {check["what"]: check for check in manifest["checks"]}
    bound, got = manifest["bound"], manifest["after"]["validation"]["accuracy"]
    held = bound_held(bound["min_accuracy"])
    expected = {GATED, all_zero(len(manifest["pruned_units"])), NO_OTHER, EVERY_LAYER}
    expected |= {held} if bound["binds"] else set()
    yield from (f"the check '{what}' is missing" for what in sorted(expected - set(checks)))
    yield from (f"the check '{what}' is none of its own" for what in sorted(set(checks) - expected))
    if held in checks and not checks[held]["detail"].startswith(f"it is {got:.4f}"):
        yield f"accuracy of {got:.4f} after healing is not that of the check of the bound"
    if manifest["verified"] is not all(check["passed"] is True for check in checks.values()):
        yield "'verified' is not what its checks say"
