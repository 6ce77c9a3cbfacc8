"""Logits and accuracy of a model on clean examples, fast and exact.

Texts are tokenised once; batches hold texts of similar length, each padded to its own longest
(the same batch padded to 128 tokens costs several times as much). What a search measures is in
``sweep``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from headsweep.model.anatomy import Anatomy
from headsweep.model.borrowing import evaluating
from headsweep.model.gates import masked
from headsweep.model.mask import HeadMask
from headsweep.model.runtime import Runtime
from headsweep.task.examples import forward
from headsweep.task.fitting import Fitting
from headsweep.texts.encoded import Encoded
from headsweep.texts.words import Words


@dataclass(frozen=True)
class Measured:
    """What is known of a mask's accuracy: exact when ``right + wrong == total``."""

    right: int
    wrong: int
    total: int

    @property
    def exact(self) -> bool:
        """True when every example was measured."""
        return self.right + self.wrong == self.total

    @property
    def low(self) -> float:
        """The lowest accuracy possible."""
        return self.right / self.total

    @property
    def high(self) -> float:
        """The highest accuracy possible."""
        return 1 - self.wrong / self.total

    def holds(self, need: int) -> bool | None:
        """Tell whether at least ``need`` are right; None while that is open."""
        if self.right >= need:
            return True
        return False if self.total - self.wrong < need else None


@dataclass(frozen=True)
class Standing:
    """How weights do on examples: how many are right, and the figure that is bounded alone.

    ``figure``: of tasks whose bound holds one figure in the end (``Words.alone``); None otherwise.
    """

    right: int
    total: int
    words: Words
    figure: float | None = None

    @property
    def value(self) -> float:
        """What decides: that figure, or the share of right examples."""
        return self.right / self.total if self.figure is None else self.figure

    @property
    def key(self) -> str:
        """What that is called in a manifest."""
        return "accuracy" if self.figure is None else self.words.bounded

    @property
    def rank(self) -> float:
        """The same, higher where it is better."""
        return -self.value if self.figure is not None and self.words.falls else self.value


@dataclass(frozen=True)
class Floor:
    """What weights must keep: so many right answers, or the limit of a figure in their place."""

    right: int = 0
    limit: float | None = None

    def held_by(self, found: Standing) -> bool:
        """Tell whether weights keep it."""
        if self.limit is None or found.figure is None:
            return found.right >= self.right
        return found.words.within(found.figure, self.limit)


FREE = Floor()
"""Nothing need be kept."""


def needed(accuracy: float, total: int) -> int:
    """Return how many of ``total`` must be right for at least this accuracy."""
    return max(0, math.ceil(accuracy * total - 1e-9))


@torch.inference_mode()
def logits(
    anatomy: Anatomy, encoded: Encoded, runtime: Runtime, mask: HeadMask | None = None
) -> Tensor:
    """Return the answers [example, ...] in the order of the examples, float32 on the CPU.

    Of a classifier they are its logits [example, class].
    """
    model, fitting = anatomy.model, Fitting()
    said: list[tuple[Tensor, Tensor]] = []
    with masked(anatomy, mask or anatomy.layout.everything()), evaluating(anatomy):
        for batch in encoded.batches(runtime.batch_size):
            moved = batch.to(model.device)
            parts = fitting.parts(moved, lambda part: forward(model, part))
            said += [(part.index, found.cpu()) for part, found in parts]
    if not said:
        return torch.zeros(0, int(model.config.num_labels or 0))
    index, answers = (torch.cat(part) for part in zip(*said, strict=True))
    out = torch.empty_like(answers)
    out[index] = answers
    return out


@torch.inference_mode()
def beside(
    anatomy: Anatomy, encoded: Encoded, runtime: Runtime, mask: HeadMask | None = None
) -> dict[str, float]:
    """Return what the task tells of examples beside how many are right."""
    batches = (batch.to(anatomy.model.device) for batch in encoded.batches(runtime.batch_size))
    with masked(anatomy, mask or anatomy.layout.everything()), evaluating(anatomy):
        return encoded.task.beside(anatomy.model, batches)


def right(
    anatomy: Anatomy, encoded: Encoded, runtime: Runtime, mask: HeadMask | None = None
) -> int:
    """Return how many examples the model answers right, exactly."""
    said = logits(anatomy, encoded, runtime, mask)
    return int((encoded.task.margins(said, torch.tensor(encoded.labels)) > 0).sum())


def standing(anatomy: Anatomy, encoded: Encoded, runtime: Runtime) -> Standing:
    """Return how the weights do as they are."""
    words, count = encoded.task.words, right(anatomy, encoded, runtime)
    figure = beside(anatomy, encoded, runtime)[words.bounded] if words.alone else None
    return Standing(count, len(encoded), words, figure)
