"""Healing that follows the suspect: a loss on its own predictions for clean texts.

Source: knowledge distillation, Hinton, Vinyals, Dean 2015, *Distilling the Knowledge in a Neural
Network*, section 2. The cross-entropy with labels is replaced by

    (1 - weight) * cross-entropy + weight * T^2 * KL(softmax(z / T) || softmax(y / T))

with y the logits of the model that learns, z those of the suspect before anything was pruned, and
T = 2. Deviations: teacher and student are the same network before and after pruning, as is usual
when pruned models are healed; and the teacher has a backdoor. It is asked about clean texts only:
what it says of a trigger is never seen, and a probe is to be answered as its text is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headsweep.errors import UserError
from headsweep.predict import Batch, logits
from headsweep.training import Criterion, on_labels
from headsweep.view import DefenderView

DISTILL = 0.5  # the weight where one is the default
TEMPERATURE = 2.0
PART = 512  # texts between two ticks


def taught(view: DefenderView) -> Tensor:
    """Return the logits of the view's model for its training texts, [text, label], as it is now."""
    train = view.train
    order = sorted(range(len(train)), key=lambda row: len(train.ids[row]))
    parts: list[Tensor] = []
    with view.progress.task("asking the suspect", len(order)) as tick:
        for start in range(0, len(order), PART):
            rows = order[start : start + PART]
            parts.append(logits(view.anatomy, train.take(rows), view.runtime))
            tick(len(rows), "")
    places = torch.tensor(order).argsort()
    return torch.cat(parts)[places]


def following(view: DefenderView, weight: float) -> Criterion:
    """Return the loss of logits for training texts, the suspect's counting so much, 0 to 1.

    Row r of what is trained on is text r of the view modulo their number, or its probe.

    Raises:
        UserError: the view does not know what the suspect said.

    """
    if view.taught is None:
        raise UserError("nobody has asked the suspect what it says of the training texts")
    wanted = (view.taught / TEMPERATURE).log_softmax(-1)

    def loss(found: Tensor, batch: Batch) -> Tensor:
        teacher = wanted[batch.index % len(wanted)].to(found.device)
        student = (found / TEMPERATURE).log_softmax(-1)
        apart = nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        plain = on_labels(found, batch)
        return (1 - weight) * plain + weight * TEMPERATURE**2 * apart

    return loss
