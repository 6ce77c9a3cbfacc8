"""What a detector is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headsweep.measure.accuracy import logits, numbers
from headsweep.model.loading import Suspect
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress, Silent
from headsweep.task.examples import encode
from headsweep.texts.split import Split

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Watch:
    """What a detector works with: no triggered text can be reached from it.

    Attributes:
        suspect: the model, borrowed: a detector leaves it as it found it.
        validation: clean labelled texts.
        target: the class to protect, where it is known.
        seed: decides everything random.
        runtime: device, batch size, precision.
        progress: where to report to.

    """

    suspect: Suspect
    validation: Split
    target: int | None = None
    seed: int = 0
    runtime: Runtime = Runtime()
    progress: Progress = field(default_factory=Silent)

    def probabilities(self, texts: Sequence[str]) -> Tensor:
        """Return what the suspect answers as it is meant to be used, [text, class]."""
        split = Split(tuple(texts), (0,) * len(texts))
        encoded = encode(split, self.suspect, self.runtime.max_length)
        return numbers(logits(self.suspect.anatomy, encoded, self.runtime)).softmax(-1)


class Scorer(Protocol):
    """A detector made ready for one model."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its scores should know."""

    def score(self, texts: Sequence[str]) -> Floats:
        """Return the suspicion of each text, [text]; higher is more suspicious."""


@runtime_checkable
class Cleaner(Protocol):
    """A scorer that can also take out what it suspects."""

    def clean(self, texts: Sequence[str], threshold: float) -> tuple[str, ...]:
        """Return the texts without what is more suspicious than the threshold."""


class Detector(Protocol):
    """A detector: its fields are its whole configuration."""

    name: ClassVar[str]
    source: ClassVar[str]
    needs_target: ClassVar[bool]

    def prepare(self, watch: Watch) -> Scorer:
        """Make ready for a model; the model is as before when this returns."""
