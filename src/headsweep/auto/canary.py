"""Canaries: backdoors of our own in the suspect, to see which purification removes them.

A canary is the suspect with a backdoor of a known family planted by short fine-tuning on poisoned
clean texts (``attacks.DirtyLabel``). Its trigger is known, so what a purification leaves of it can
be measured: the excess label flip rate over the suspect before the planting, on texts and matched
at the clean flip rate as in ``judge.evaluate``. The suspect's own backdoor, if it has one, is in
both, so it counts for neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headsweep.attacks.dirty_label import DirtyLabel
from headsweep.attacks.scene import Scene
from headsweep.errors import UserError
from headsweep.judge.evaluate import Answers, Evaluation, Exam, Triggered, answer, judge
from headsweep.model.loading import Suspect
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress
from headsweep.seeding import derive
from headsweep.settings import checked
from headsweep.task.training import copied
from headsweep.texts.split import Split
from headsweep.triggers import ByRule
from headsweep.triggers.probe_families import PROBES
from headsweep.triggers.seen import triggered

TAKEN = 0.3  # excess label flip rate from which a canary counts as planted


@dataclass(frozen=True)
@checked
class Planting:
    """How canaries are planted: enough to take in a minute, little enough to leave accuracy."""

    rate: float = 0.5
    epochs: float = 3
    lr: float = 1e-4


@dataclass(frozen=True)
class Ground:
    """What canaries are planted in, tried and judged on: parts of the clean data.

    Attributes:
        train: texts to plant with, and to purify with.
        validation: texts that decide in the trials.
        judge: texts that a trial is judged on.

    """

    train: Split
    validation: Split
    judge: Split


@dataclass(frozen=True)
class Canary:
    """A planted backdoor.

    Attributes:
        family: name of its probe family.
        target: the label that its trigger is to get.
        weights: of the suspect with the backdoor.
        exam: what to judge it on.
        reference: the answers of the suspect without it.
        planted: its figures before any purification.

    """

    family: str
    target: int
    weights: dict[str, Tensor]
    exam: Exam
    reference: Answers
    planted: Evaluation

    @property
    def taken(self) -> bool:
        """True when the planting succeeded."""
        return self.excess(self.planted) >= TAKEN

    @staticmethod
    def excess(found: Evaluation) -> float:
        """Return the excess label flip rate."""
        assert found.excess_lfr is not None
        return found.excess_lfr.value

    def judge(self, purified: Suspect, runtime: Runtime) -> Evaluation:
        """Return what is left of it in a purified model."""
        own = answer(purified, self.exam, runtime)
        return judge(self.exam, purified.labels.names, own, self.reference)

    def to_json(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return it for a manifest."""
        return {
            "family": self.family,
            "target": labels[self.target],
            "accuracy": self.planted.accuracy.value,
            "excess_lfr": self.excess(self.planted),
            "taken": self.taken,
        }


def plant(
    suspect: Suspect,
    family: str,
    target: int,
    ground: Ground,
    seed: int,
    runtime: Runtime,
    progress: Progress,
    planting: Planting = Planting(),
) -> Canary:
    """Plant a backdoor into the suspect, judge it, and put the suspect's weights back.

    Raises:
        UserError: the family cannot change the texts, or no text has another label.

    """
    rewriter, seed = ByRule(PROBES[family]), derive(seed, "canary", family)
    rows = [row for row, label in enumerate(ground.judge.labels) if label != target]
    if not rows:
        raise UserError("every text to judge a canary on has its target label")
    made = triggered(ground.judge.take(rows), rewriter, seed, suspect, runtime.max_length)
    exam = Exam(ground.judge, Triggered(made.split, target), ground.validation, seed)
    reference = answer(suspect, exam, runtime)
    before = copied(suspect.model)
    scene = Scene(suspect, ground.train, rewriter, target, planting.rate, seed, runtime, progress)
    try:
        DirtyLabel(epochs=planting.epochs, lr=planting.lr).plant(scene)
        planted = judge(exam, suspect.labels.names, answer(suspect, exam, runtime), reference)
        weights = copied(suspect.model)
    finally:
        suspect.model.load_state_dict(before)
    return Canary(family, target, weights, exam, reference, planted)
