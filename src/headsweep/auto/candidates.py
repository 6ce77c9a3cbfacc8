"""What ``auto`` is asked for: the candidates that it tries, and how it chooses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator

from headsweep.auto.canary import Planting
from headsweep.errors import UserError
from headsweep.heal.fine_tune import FineTune, On
from headsweep.prune.strategies import Strategy
from headsweep.prune.strategies.gradient import Gradient
from headsweep.prune.strategies.nothing import Nothing
from headsweep.prune.strategies.probe_guided import ProbeGuided
from headsweep.prune.strategies.variance import Variance
from headsweep.settings import checked, describe
from headsweep.triggers.probe_families import RuleProber

UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds_of(said: Any) -> Any:
    """Return a time such as ``10m``, ``90s`` or ``1h`` in seconds; all else as it is."""
    if isinstance(said, str) and said[-1:] in UNITS:
        return UNITS[said[-1]] * float(said[:-1])
    return said


Seconds = Annotated[float, BeforeValidator(seconds_of), "seconds, or a time such as 90s, 10m or 1h"]


@dataclass(frozen=True)
class Candidate:
    """One way to purify.

    Attributes:
        strategy: how heads are chosen.
        depth: how much of the accuracy allowed pruning may use, a multiple: above 1 healing is to
            bring it back.
        on: what healing is on, ``clean`` or ``probes``.

    """

    strategy: Strategy
    depth: float = 1.0
    on: On = "probes"

    def heal(self, usual: FineTune, epochs: float | None = None) -> FineTune:
        """Return its healing: the usual one on its own texts.

        If epochs are given it is that of a trial: so long, and once, where the usual is a soup.
        """
        if epochs is None:
            return replace(usual, on=self.on)
        return replace(usual, on=self.on, epochs=epochs, members=1, beyond=1.0)

    @property
    def told(self) -> str:
        """What it is, in a line."""
        prunes = self.strategy.needs.pruning
        name = self.strategy.name if prunes else "no pruning"
        plain = self.depth == 1 or not prunes
        depth = "" if plain else f" to {self.depth:g} times the drop allowed"
        return f"{name}{depth}, healed on {self.on}"

    def to_json(self) -> dict[str, Any]:
        """Return it for a manifest."""
        strategy = describe(self.strategy) if self.strategy.needs.pruning else None
        return {
            "told": self.told,
            "strategy": strategy,
            "depth": self.depth,
            "on": self.on,
        }


CANDIDATES = (
    Candidate(Gradient(), on="clean"),
    Candidate(Nothing(), on="clean"),
    Candidate(Variance(), on="clean"),
    Candidate(Gradient(), depth=2.5, on="clean"),
    Candidate(ProbeGuided()),
    Candidate(Gradient(), depth=5.0),
    Candidate(Nothing()),
)
"""What is tried, in this order: the default of ``purify`` first."""


@dataclass(frozen=True)
@checked
class Auto:
    """How to choose.

    Attributes:
        budget_seconds: wall time for everything, the final run included.
        canaries: how many backdoors of our own, at most.
        texts: training texts for planting and for trials, at most.
        held: validation texts for trials, and texts to judge on, at most each.
        families: probe families; canaries are of these too. Empty: all.
        candidates: what to try, the best guess first.
        planting: how canaries are planted.

    """

    name: ClassVar[str] = "auto"
    source: ClassVar[str] = "of this project"
    budget_seconds: Seconds = 600
    canaries: int = 2
    texts: int = 500
    held: int = 250
    families: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = CANDIDATES
    planting: Planting = Planting()

    def __post_init__(self) -> None:
        if not 0 < self.budget_seconds < math.inf:
            raise UserError(f"a budget of {self.budget_seconds} s", "for example 10m")
        if min(self.canaries, self.texts, self.held, len(self.candidates)) < 1:
            raise UserError("auto: canaries, texts, held and candidates are at least 1")
        RuleProber(self.families)
