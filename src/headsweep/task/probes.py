"""Probes: clean texts put through generic transformations, their true labels kept.

Anybody can make them, so a defense may see them. This module only holds them; what makes them
knows triggers and lives above the pipeline (``triggers.probe_families``), out of a
defense's reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from headsweep.errors import UserError
from headsweep.model.loading import Suspect
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress
from headsweep.texts.encoded import Encoded
from headsweep.texts.split import Split


@dataclass(frozen=True)
class Family:
    """One transformation of clean examples: ``probes`` row i is ``clean`` row i, transformed.

    Attributes:
        name: of the transformation.
        rows: where the clean examples stand in the set that they were taken from.
        clean: the originals.
        probes: the same, transformed, with the same (true) labels.

    """

    name: str
    rows: tuple[int, ...]
    clean: Encoded
    probes: Encoded

    def __post_init__(self) -> None:
        assert len(self.rows) == len(self.clean) == len(self.probes)
        assert self.clean.labels == self.probes.labels, "a probe keeps its true label"

    def take(self, places: list[int]) -> Family:
        """Return these pairs."""
        rows = tuple(self.rows[i] for i in places)
        return Family(self.name, rows, self.clean.take(places), self.probes.take(places))


@dataclass(frozen=True)
class Probes:
    """The probes of one set of clean examples. ``skipped`` says which families failed, and why."""

    families: tuple[Family, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(family.rows) for family in self.families)

    def by_row(self) -> dict[int, list[tuple[int, int]]]:
        """Return of each clean row its probes as (family, place in the family)."""
        found: dict[int, list[tuple[int, int]]] = {}
        for number, family in enumerate(self.families):
            for place, row in enumerate(family.rows):
                found.setdefault(row, []).append((number, place))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return how many probes each family has, for a manifest."""
        made = {family.name: len(family.rows) for family in self.families}
        return {"families": made, "skipped": dict(self.skipped)}


class Prober(Protocol):
    """Makes probes. Its fields are its whole configuration."""

    def make(
        self,
        suspect: Suspect,
        split: Split,
        runtime: Runtime,
        progress: Progress,
        held: bool = False,
    ) -> Probes:
        """Return the probes of clean examples; raises UserError where none can be made.

        ``held``: they are only measured on, never trained on, so fewer will do.
        """

    def described(self) -> dict[str, Any]:
        """Return what it makes, as JSON values."""


def required(probes: Probes | None, who: str) -> Probes:
    """Return the probes, or say how to get them; raises UserError."""
    if probes is None:
        raise UserError(
            f"{who} needs probes, and there are none",
            "give more clean texts; from Python: Plan(prober=headsweep.RuleProber())",
        )
    return probes


def mixed(clean: Encoded, probes: Probes, share: float, generator: torch.Generator) -> Encoded:
    """Return the examples with a share of them turned into probes.

    Which rows, and which of its probes a row becomes, is drawn. Where fewer rows than the share
    have a probe, all of those become one.
    """
    known = probes.by_row()
    order = torch.randperm(len(clean), generator=generator).tolist()
    turned = [row for row in order if row in known][: round(share * len(clean))]
    ids, kinds = list(clean.ids), list(clean.kinds)
    for row in turned:
        options = known[row]
        number, place = options[int(torch.randint(len(options), (1,), generator=generator))]
        made = probes.families[number].probes
        ids[row] = made.ids[place]
        if kinds:
            kinds[row] = made.kinds[place]
    return Encoded(tuple(ids), tuple(kinds), clean.labels, clean.pad, clean.task)


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Return sets of examples one behind the other."""
    ids = tuple(row for part in parts for row in part.ids)
    kinds = tuple(row for part in parts for row in part.kinds)
    labels = tuple(label for part in parts for label in part.labels)
    return Encoded(ids, kinds, labels, parts[0].pad, parts[0].task)
