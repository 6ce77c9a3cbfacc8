"""How to purify, beside the strategy: what a caller asks of the pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headsweep.errors import UserError
from headsweep.heal.attention_penalty import PENALTY
from headsweep.heal.fine_tune import FineTune, Healing, cooler_of
from headsweep.measure.accuracy import needed
from headsweep.model.families import Adapter
from headsweep.model.mask import HEADS, HeadMask, Units
from headsweep.model.runtime import Runtime
from headsweep.prune.scores import ScoreCache
from headsweep.prune.strategies import Strategy
from headsweep.prune.strategies.gradient import Gradient
from headsweep.purification.bound import DECISIVE
from headsweep.task.probes import Prober
from headsweep.task.training import Schedule

USUAL_DROP = 0.02
MOST_DROP = 0.1  # taken without being asked
KEPT = "interrupted_run"  # marks a mask file as ours to remove
PAPER = Schedule(epochs=3, lr=2e-5)
HOT = FineTune(epochs=4, lr=1.5e-4, attention=PENALTY, halvings=3)
"""The usual healing of a classifier: as hot as min accuracy allows (docs/guided.md)."""


@dataclass(frozen=True)
class Found:
    """How an interrupted run found its mask: what the manifest is to say of the search."""

    strategy: dict[str, Any]
    steps: list[dict[str, Any]]
    scores: list[list[float]] | None
    heal: dict[str, Any]
    command: str
    prune_drop: float | None = None

    @classmethod
    def of(cls, text: str) -> Found | None:
        """Read it from a mask file; None where the file holds a mask only."""
        form = json.loads(text)
        if not isinstance(form, dict) or KEPT not in form:
            return None
        try:
            search = form["search"]
            made = cls(
                form["strategy"],
                search["steps"],
                search["scores"],
                form["heal"],
                form[KEPT],
                form.get("prune_drop"),
            )
            made.strategy["name"], made.heal["name"], made.heal["fields"]
        except (KeyError, TypeError) as error:
            raise UserError(
                f"the kept mask lacks what was known of its search: {error}",
                f"remove '{KEPT}' from the file to use it as a plain mask",
            ) from error
        return made

    def to_json(self) -> dict[str, Any]:
        """Return the form that ``of`` reads, beside the mask's own."""
        search = {"steps": self.steps, "scores": self.scores}
        own = {"strategy": self.strategy, "search": search, "heal": self.heal}
        return {KEPT: self.command, "prune_drop": self.prune_drop} | own


@dataclass(frozen=True)
class Plan:
    """How to purify, beside the strategy.

    Attributes:
        max_drop: how far validation accuracy may fall below what it was, as a fraction; None:
            0.02, and of a few examples as many answers as can be told from chance (``drop``).
        min_accuracy: the lowest validation accuracy allowed instead; None: use ``max_drop``.
        prune_drop: how far it may fall while heads are chosen, for healing to bring it back within
            the other two; None: these hold there too.
        start: ``classifier`` or ``encoder`` (docstring of ``pipeline``).
        heal: fine-tuning after pruning; None: ``usual_healing``. ``FineTune(epochs=0)``: none.
        seed: decides everything random.
        mask: a head mask to apply instead of searching.
        found: how an interrupted run found that mask (``Found.of`` a kept file); None: not known.
        runtime: device, batch size, maximum length, precision.
        adapter: how to find the heads of an unknown architecture.
        units: what may be pruned: heads, FFN groups, or both.
        prober: makes the probes that the view carries; None: it carries none.
        scores: keeps scores between purifications of one suspect; None: nothing is kept.
        bounded: False: a baseline that no bound on accuracy holds, such as fine-tuning alone.

    """

    max_drop: float | None = None
    min_accuracy: float | None = None
    prune_drop: float | None = None
    start: Literal["classifier", "encoder"] = "classifier"
    heal: Healing | None = None
    seed: int = 0
    mask: HeadMask | None = None
    found: Found | None = None
    runtime: Runtime = Runtime()
    adapter: Adapter | None = None
    units: Units = HEADS
    prober: Prober | None = None
    scores: ScoreCache | None = None
    bounded: bool = True

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            raise UserError(f"max drop {self.max_drop} is not a fraction", "for example 0.02")
        if self.prune_drop is not None and not 0 <= self.prune_drop < 1:
            raise UserError(f"prune drop {self.prune_drop} is not a fraction", "for example 0.1")
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise UserError(
                f"min accuracy {self.min_accuracy} is not a fraction", "for example 0.85"
            )
        if self.start not in ("classifier", "encoder"):
            raise UserError(f"unknown start '{self.start}'", "use classifier or encoder")

    @property
    def asked_drop(self) -> float:
        """How far accuracy may fall, whatever the number of examples: 0.02 where nobody says."""
        return USUAL_DROP if self.max_drop is None else self.max_drop

    def drop(self, examples: int) -> float:
        """Return how far accuracy may fall in the end, on so many validation examples.

        As was asked. Where nothing was, 0.02; but of fewer than 250 examples that is less than
        chance does in any healing, so that no result would hold it but by luck: five answers then
        (``headsweep.purification.bound``), at most 0.1. Heads are chosen within 0.02 all the same.
        """
        if self.max_drop is not None:
            return self.max_drop
        return max(USUAL_DROP, min(MOST_DROP, DECISIVE / examples))

    def bound(self, before: Mapping[str, Any]) -> float:
        """Return the lowest validation accuracy allowed, from that before pruning; unbounded: 0.

        Raises:
            UserError: the suspect itself is below it.

        """
        own = float(before["accuracy"])
        if not self.bounded:
            return 0.0
        drop = self.drop(before["examples"])
        bound = own - drop if self.min_accuracy is None else self.min_accuracy
        if needed(bound, before["examples"]) > before["right"]:
            raise UserError(
                f"min accuracy {bound:.4f} is above the suspect's own {own:.4f} on validation data",
                "lower --min-accuracy, or use --max-drop",
            )
        return bound

    def while_pruning(self, before: Mapping[str, Any]) -> float:
        """Return the lowest validation accuracy allowed while heads are chosen; raises likewise."""
        bound = self.bound(before)
        if self.prune_drop is None and self.min_accuracy is not None:
            return max(bound, 0.0)
        drop = self.asked_drop if self.prune_drop is None else self.prune_drop
        return max(float(before["accuracy"]) - drop, 0.0)

    def check_for(self, strategy: Strategy | None) -> None:
        """Refuse what does not go together with a strategy; raises UserError."""
        if self.prune_drop is not None and self.bounded and strategy is None and self.mask is None:
            raise UserError("--prune-drop is for pruning, and nothing is pruned", "leave it out")
        if self.start == "encoder" and cooler_of(self.healing) is not None:
            raise UserError(
                "--start encoder ends with a fresh classifier: healed cooler it would learn less",
                "leave out --heal-halvings",
            )
        if self.prune_drop is not None and getattr(self.healing, "epochs", 1) == 0:
            raise UserError(
                "--prune-drop leaves it to healing to bring accuracy back, and there is none",
                "leave it out, or give --heal-epochs above 0",
            )

    @property
    def healing(self) -> Healing:
        """How the pruned model is fine-tuned."""
        return self.heal or usual_healing(self.start)


class Usual:
    """Stands for the strategy that is taken without being asked: ``USUAL_STRATEGY``."""


USUAL = Usual()
USUAL_STRATEGY = Gradient


def usual_healing(start: str) -> FineTune:
    """Return the default: ``HOT``, or the paper's when starting from the encoder."""
    return HOT if start == "classifier" else FineTune(PAPER.epochs, PAPER.lr)
