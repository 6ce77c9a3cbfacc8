"""What came of a purification, in words: the same in a terminal and on a page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headsweep.export.consistency import bound_held
from headsweep.purification.bound import USUAL_DROP, Allowance, one_of_these
from headsweep.texts.words import limit_of, void_of, words_of

MEND = "a lower learning rate of healing, more clean rows or a larger --max-drop"

NOTHING = "nothing pruned; "


@dataclass(frozen=True)
class Verdict:
    """What came of a purification.

    Attributes:
        told: in words, one line.
        kind: ``held``; ``missed``: the bound or another check; ``nothing`` was removed;
            ``free``: no bound held it; ``void``: one did, and protects nothing.
        mend: what to do about it; empty where there is nothing to mend.

    """

    told: str
    kind: str
    mend: str = ""


def verdict(manifest: Mapping[str, Any], out: str = "it") -> Verdict:
    """Return whether the bound was held, and whether anything was removed at all."""
    before, after = manifest["before"]["validation"], manifest["after"]["validation"]
    change = _change(before["right"] - after["right"], before["examples"])
    nothing = "" if manifest["pruned_units"] else NOTHING
    failed = [check["what"] for check in manifest["checks"] if not check["passed"]]
    if not manifest["bound"].get("binds", True):
        share = words_of(manifest).share
        told, kind = f"{nothing}no bound on {share}: {change}", "nothing" if nothing else "free"
    else:
        lowest, words = manifest["bound"]["min_accuracy"], words_of(manifest)
        absolute = manifest["bound"].get("max_drop", 0) is None
        bound = Allowance(lowest, before["right"], before["examples"], absolute=absolute)
        if words.bounded:
            (told, held), mend = _bounded(manifest), MEND
            held = held and bound_held(words.share, lowest) not in failed  # of older ones
        else:
            told = f"{change}, {bound.allowed} allowed ({bound.points})"
            held = after["right"] >= bound.need
            mend = "" if held else _mend(bound, after["right"])
        told += _unasked(manifest["bound"])
        if not held:
            return Verdict(f"{nothing}bound not held: {told}", "missed", mend)
        told, kind = f"{nothing}bound held: {told}", "nothing" if nothing else "held"
        void = void_of(manifest)
        if void and not failed:
            return Verdict(f"{told}; but {void}", "void")
    if failed:
        return Verdict(f"{told}; but not so: {failed[0]}", "missed", f"do not use {out}, report it")
    return Verdict(told, kind)


def _bounded(manifest: Mapping[str, Any]) -> tuple[str, bool]:
    """Return what came of a figure that is bounded, and whether it holds."""
    words, limit = words_of(manifest), limit_of(manifest)
    assert limit is not None
    own, got = (manifest[stage]["validation"][words.bounded] for stage in ("before", "after"))
    digits = next((n for n in (3, 4, 5) if round(got, n) != round(limit, n)), 6)
    told = (
        f"{words.bounded_name} {own:.{digits}f} \u2192 {got:.{digits}f}, {limit:.{digits}f} allowed"
    )
    if words.order:  # a figure that does not see how far answers have moved
        key, name = next((key, name) for key, name in words.figures.items() if key != words.bounded)
        was, now = (manifest[stage]["validation"][key] for stage in ("before", "after"))
        told += f"; {name} {was:.3g} \u2192 {now:.3g}, which nothing bounds"
    return told, words.within(got, limit)


def _change(lost: int, examples: int) -> str:
    if not lost:
        return f"0 of {examples} validation answers lost"
    points = f"{100 * abs(lost) / examples:.1f} points"
    return (
        f"{abs(lost)} of {examples} validation answers {'lost' if lost > 0 else 'won'} ({points})"
    )


def _unasked(bound: Mapping[str, Any]) -> str:
    """Return that more than usual was allowed, of so few answers, since nobody said how much."""
    wider = not bound.get("asked", True) and (bound.get("max_drop") or 0.0) > USUAL_DROP
    return ", as no bound was asked for" if wider else ""


def _mend(bound: Allowance, right: int) -> str:
    """Return what to change where the bound was missed."""
    if not bound.worth_healing_again(right):
        return bound.mended(cut_off=True)
    wider = math.ceil(100 * (bound.right - right) / bound.examples) / 100
    ways = ["a lower learning rate of healing", "more clean rows"]
    return f"{one_of_these(ways + [bound.looser(wider)] * (wider < 0.5))}"
