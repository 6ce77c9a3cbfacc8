"""Random heads as many as another method pruned: which cell gives the number, and that it can.

A matched cell depends on that other cell, of the same victim and seed. The harness fills this one
first, or takes it from the results folder, and puts its count into the order (``orders``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from headsweep.bench.variation import Variation
from headsweep.document import Section
from headsweep.errors import lookup


class Named(Protocol):
    """A method of a grid, as far as matching goes."""

    @property
    def name(self) -> str:
        """Its name in the recipe."""

    @property
    def seeds(self) -> tuple[int, ...] | None:
        """The seeds that it is limited to."""

    @property
    def variation(self) -> Variation:
        """What it has of its own."""

    @property
    def prunes_heads(self) -> bool:
        """True where it prunes heads, and nothing else."""


def check_match(
    section: Section, method: Named, methods: Iterable[Named], seeds: tuple[int, ...]
) -> None:
    """Raise UserError where a matched method has no other to take its number from."""
    match = method.variation.match
    if match is None:
        return
    with section.blamed("match"):
        other = lookup(match, {one.name: one for one in methods}, "method of this grid")
    if other.variation.match is not None:
        raise section.mistake("match", f"'{match}' is matched itself", "name what it matches")
    if not set(method.seeds or seeds) <= set(other.seeds or seeds):
        more = f"'{match}' is not run with every seed of this method"
        raise section.mistake("match", more, f"seeds = {list(other.seeds or ())}")
    if not other.prunes_heads:
        raise section.mistake("match", f"'{match}' prunes no heads", "match one that does")


def count_of(form: Mapping[str, Any]) -> int:
    """Return how many units a finished cell pruned."""
    return int(form.get("pruned_count", 0))
