"""Logits and accuracy of a model on clean examples, fast and exact.

Texts are tokenised once; batches hold texts of similar length, each padded to its own longest
(the same batch padded to 128 tokens costs several times as much). What a search measures is in
``sweep``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headsweep.errors import UserError
from headsweep.model.anatomy import Anatomy
from headsweep.model.borrowing import evaluating
from headsweep.model.gates import masked
from headsweep.model.mask import HeadMask
from headsweep.model.runtime import Runtime
from headsweep.task.examples import forward
from headsweep.task.fitting import Fitting
from headsweep.texts.encoded import Batch, Encoded
from headsweep.texts.words import CLASSIFICATION, Words


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
class Accuracy:
    """How many of so many examples are answered right, and what else the task tells of them."""

    examples: int
    right: int
    beside: Mapping[str, float] = field(default_factory=dict)
    words: Words = CLASSIFICATION

    @property
    def value(self) -> float:
        """The share of right answers."""
        return self.right / self.examples

    @property
    def bounded(self) -> float | None:
        """The figure beside that the bound holds in the place of the share; None: it holds that."""
        return self.beside.get(self.words.bounded)

    @property
    def decides(self) -> dict[str, float]:
        """What healing is held to, by its name: the figure that is bounded, or the share."""
        return {self.words.bounded or "accuracy": self.held}

    @property
    def held(self) -> float:
        """The value of the same."""
        return self.beside[self.words.bounded] if self.words.bounded else self.value

    @property
    def rank(self) -> float:
        """The same, higher where it is better; what is no number is worst."""
        if math.isnan(self.held):
            return -math.inf
        return -self.held if self.words.falls else self.held

    def to_json(self) -> dict[str, Any]:
        """Return it for a manifest."""
        counts = {"examples": self.examples, "right": self.right, self.words.key: self.value}
        return counts | dict(self.beside)


@dataclass(frozen=True)
class Floor:
    """What weights must keep: so many right answers, or the limit of a figure in their place."""

    right: int = 0
    limit: float | None = None

    def held_by(self, found: Accuracy) -> bool:
        """Tell whether weights keep it."""
        if self.limit is None:
            return found.right >= self.right
        return found.words.within(found.bounded, self.limit)

    def lost_by(self, found: Accuracy, guessing: int) -> bool:
        """Tell whether weights that keep less than it have lost the task.

        Their answers are no better than one for all, of which ``guessing`` are right; or the figure
        is half of the limit, twice it where lower is better.
        """
        if self.limit is None:
            return found.right <= guessing < self.right
        far = 2 * self.limit if found.words.falls else self.limit / 2
        return not (self.held_by(found) or found.words.within(found.bounded, far))


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
    model = anatomy.model
    if not len(encoded):
        return torch.zeros(0, int(model.config.num_labels or 0))
    return said(anatomy, encoded, runtime, lambda part: (forward(model, part),), mask)[0]


@torch.inference_mode()
def said(
    anatomy: Anatomy,
    encoded: Encoded,
    runtime: Runtime,
    ask: Callable[[Batch], tuple[Tensor, ...]],
    mask: HeadMask | None = None,
) -> list[Tensor]:
    """Return what a model says of examples, one or more, each [example, ...], on the CPU.

    ``ask`` asks the model of a batch; where memory does not hold one it gets parts.
    """
    fitting = Fitting()
    found: list[tuple[Tensor, ...]] = []
    with masked(anatomy, mask or anatomy.layout.everything()), evaluating(anatomy):
        for batch in encoded.batches(runtime.batch_size):
            parts = fitting.parts(batch.to(anatomy.model.device), ask)
            found += [(part.index, *(one.cpu() for one in told)) for part, told in parts]
    return in_order(found)


def numbers(answers: Tensor) -> Tensor:
    """Return answers, [example, ...], as they are; raises UserError where one is no number."""
    broken = int(answers[:, None].isnan().flatten(1).any(-1).sum())
    if broken:
        raise UserError(
            f"the model answers {broken} of {len(answers)} texts with no number (NaN)",
            "its weights are broken, or too large for its precision: nothing can be judged",
        )
    return answers


def in_order(found: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Return what was said to parts of examples, each [example, ...], in the examples' order.

    ``found``: of each part which examples it has, and what was said to them.
    """
    index, *whole = (torch.cat(part) for part in zip(*found, strict=True))
    order = index.argsort()
    return [one[order] for one in whole]


def counted(encoded: Encoded, told: Sequence[Tensor], names: Sequence[str]) -> Accuracy:
    """Return what examples, in order, come to that a model said this to; ``names``: its labels."""
    task, labels = encoded.task, torch.tensor(encoded.labels)
    count = int((task.margins(told[0], labels) > 0).sum())
    return Accuracy(len(encoded), count, task.beside(told, labels, names), task.words)


def measured(
    anatomy: Anatomy, encoded: Encoded, runtime: Runtime, mask: HeadMask | None = None
) -> Accuracy:
    """Return how many examples are answered right, and what the task tells of them beside."""
    task, model = encoded.task, anatomy.model
    told = said(anatomy, encoded, runtime, lambda part: task.said(model, part), mask)
    return counted(encoded, told, task.names(model.config).names)
