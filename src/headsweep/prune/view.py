"""All that a defense may see: the threat model as a type.

A view carries the suspect model, clean labelled data and a seed. No trigger, no poisoned
example and no clean model can be reached from it, and the import contracts keep the modules
that know of triggers out of reach of everything that takes a view. It may carry probes: clean
texts put through generic transformations, true labels kept, made for it by whoever runs the
defense.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from headsweep.measure.accuracy import Accuracy, Measured, measured, needed
from headsweep.measure.meter import Meter
from headsweep.model.anatomy import Anatomy
from headsweep.model.mask import HeadMask, Layout
from headsweep.model.removal import already_pruned
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress, Silent
from headsweep.prune.scores import ScoreCache
from headsweep.seeding import derive, stream
from headsweep.task.inversion import Fixed
from headsweep.task.probes import Probes
from headsweep.task.training import copied, put_back
from headsweep.texts.encoded import Encoded


@dataclass(frozen=True)
class DefenderView:
    """What a strategy works with.

    Attributes:
        anatomy: the suspect model, borrowed: a strategy leaves it as it found it.
        train: clean labelled examples to score (and to fine-tune a scratch copy) on.
        validation: clean labelled examples that decide.
        min_accuracy: the lowest validation accuracy allowed, as a fraction.
        seed: decides everything random.
        runtime: device, batch size, precision.
        progress: where to report to.
        probes: probes of training examples (their rows are rows of ``train``), if made.
        probe_validation: probes of validation examples, if made.
        scores: keeps scores that several methods share; None: each computes its own.
        precision: what the weights will be saved in.
        kept: a folder for what an interrupted run need not do again; None: nothing is kept.
        fixed: answers that a generator has by heart, if any were looked for and found.

    """

    anatomy: Anatomy
    train: Encoded
    validation: Encoded
    min_accuracy: float
    seed: int = 0
    runtime: Runtime = Runtime()
    progress: Progress = field(default_factory=Silent)
    probes: Probes | None = None
    probe_validation: Probes | None = None
    scores: ScoreCache | None = None
    precision: torch.dtype = torch.float32
    kept: Path | None = None
    fixed: tuple[Fixed, ...] = ()

    @property
    def layout(self) -> Layout:
        """The units of the model."""
        return self.anatomy.layout

    @cached_property
    def meter(self) -> Meter:
        """Measures masks on the validation set."""
        return Meter(self.anatomy, self.validation, self.runtime, progress=self.progress)

    @cached_property
    def gone(self) -> frozenset[int]:
        """The units that were at zero before anything is pruned."""
        return frozenset(already_pruned(self.anatomy).pruned)

    @property
    def need(self) -> int:
        """How many validation examples must be right."""
        return needed(self.min_accuracy, len(self.validation))

    def accuracy_now(self) -> Accuracy:
        """Return how the weights do on validation examples as they are."""
        return measured(self.anatomy, self.validation, self.runtime)

    @cached_property
    def guessing(self) -> int:
        """How many validation examples are right when one answer is given to all."""
        labels = self.validation.labels
        return max(labels.count(label) for label in set(labels))

    def accuracy(self, mask: HeadMask) -> float:
        """Return the exact validation accuracy under a mask."""
        return self.meter.accuracy(mask).low

    def decide(self, mask: HeadMask) -> Measured:
        """Measure a mask until it is settled whether it holds min accuracy."""
        return self.meter.decide(mask, self.need)

    def first_to_hold(self, masks: Sequence[HeadMask]) -> list[Measured]:
        """Measure masks in turn until one holds min accuracy; return what was measured."""
        return self.meter.first_to_hold(masks, self.need)

    def confirm(self, mask: HeadMask) -> Measured:
        """Decide again, warier of bf16; costs nothing where ``decide`` was exact."""
        return self.meter.confirm(mask, self.need)

    def holds(self, mask: HeadMask) -> bool:
        """Tell whether a mask keeps at least min accuracy on the validation set (exact)."""
        return bool(self.confirm(mask).holds(self.need))

    def generator(self, *names: object) -> torch.Generator:
        """Return a random stream of its own for a purpose."""
        return stream(self.seed, *names)

    def subseed(self, *names: object) -> int:
        """Return a seed of its own for a purpose."""
        return derive(self.seed, *names)

    @contextmanager
    def scratch(self) -> Iterator[Anatomy]:
        """Lend the model for changes; its weights are put back afterwards.

        What is measured inside is of the changed weights, and is forgotten outside.
        """
        model, kept = self.anatomy.model, self.__dict__.pop("meter", None)
        before = copied(model)
        try:
            yield self.anatomy
        finally:
            put_back(model, before)
            self.__dict__.pop("meter", None)
            if kept is not None:
                self.__dict__["meter"] = kept
