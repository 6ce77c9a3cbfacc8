"""Maximum entropy first, then fine-tuning (MEFT).

Source: Liu et al. 2023, as Zhao et al. 2024 (PURE) use it: one epoch that maximises the entropy of
predictions, to forget, then fine-tuning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headsweep.heal.fine_tune import Copies, FineTune
from headsweep.heal.whole import WholeOnce
from headsweep.measure.accuracy import FREE, Floor
from headsweep.model.loading import Suspect
from headsweep.model.removal import pieces
from headsweep.prune.choice import Choice
from headsweep.prune.view import DefenderView
from headsweep.settings import checked
from headsweep.task.examples import forward
from headsweep.task.training import Job, Schedule, train
from headsweep.texts.encoded import Batch


@dataclass(frozen=True)
@checked
class EntropyFirst(WholeOnce):
    """Entropy up, then cross-entropy down."""

    name: ClassVar[str] = "maximum entropy, then fine-tune"
    entropy_epochs: float = 1
    epochs: float = 3
    lr: float = 2e-5

    def __post_init__(self) -> None:
        Schedule(self.entropy_epochs, self.lr)
        Schedule(self.epochs, self.lr)

    @property
    def trains(self) -> bool:
        """False where neither phase has epochs."""
        return self.entropy_epochs > 0 or self.epochs > 0

    @property
    def copies(self) -> Copies:
        """Gradients, and the two averages of AdamW."""
        return Copies(3 if self.trains else 0)

    def work(self, examples: int) -> float:
        """Return how many forward passes of a text both phases cost, about."""
        return 3.5 * (self.entropy_epochs + self.epochs) * examples

    def fitted(self, suspect: Suspect) -> tuple[EntropyFirst, list[str]]:
        """Return it as it is: every classifier can be healed so; raises UserError for others."""
        suspect.task.one_label("maximum entropy")
        return self, []

    def heal(self, view: DefenderView, choice: Choice, floor: Floor = FREE) -> dict[str, Any]:
        """Run both phases on the view's model; nothing is chosen by ``floor``."""
        del floor
        schedule = Schedule(self.entropy_epochs, self.lr)
        job = Job(
            schedule,
            view.subseed("entropy"),
            "maximising entropy",
            _negative_entropy,
            pieces(view.anatomy, choice.mask),
        )
        losses = train(view.anatomy.model, view.train, job, view.runtime, view.progress)
        after = FineTune(self.epochs, self.lr).heal(view, choice)
        return {"entropy_losses": losses} | after


def _negative_entropy(model: PreTrainedModel, batch: Batch) -> Tensor:
    log_p = torch.log_softmax(forward(model, batch), dim=-1)
    return (log_p.exp() * log_p).sum(-1).mean()
