"""Healing that follows the suspect: a loss on its own predictions for clean texts.

Source: knowledge distillation, Hinton, Vinyals, Dean 2015, *Distilling the Knowledge in a Neural
Network*, section 2. The cross-entropy with labels is replaced by

    (1 - weight) * cross-entropy + weight * T^2 * KL(softmax(z / T) || softmax(y / T))

with y the logits of the model that learns, z those of the suspect before anything was pruned, and
T = 2. Deviations: teacher and student are one network before and after pruning, as is usual when
pruned models are healed. The teacher has a backdoor, and is asked about clean texts only: what it
says of a trigger that no clean text has is never learnt from; of a trigger that clean texts have
too (a syntax, a manner, a common word) it says the target, against the label. A probe is to be
answered as its text was. Of more than ``MOST`` texts so many, drawn at random, are asked about; the
others count by their labels. Where a fresh classifier was trained first (``--start encoder``), the
teacher is the model with that classifier.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headsweep.errors import UserError
from headsweep.predict import Batch, logits
from headsweep.training import Criterion
from headsweep.view import DefenderView

TEMPERATURE = 2.0
MOST = 20_000  # texts that the suspect is asked about
PART = 512  # texts between two ticks


def asked(texts: int) -> int:
    """Return about how many of so many texts the suspect is asked."""
    return min(texts, MOST)


def taught(view: DefenderView) -> Tensor:
    """Return the logits of the view's model for its training texts, [text, label], as it is now.

    NaN where it was not asked.
    """
    train = view.train
    chosen = torch.randperm(len(train), generator=view.generator("taught")).tolist()
    order = sorted(chosen[: asked(len(train))], key=lambda row: len(train.ids[row]))
    found = torch.full((len(train), int(view.anatomy.model.config.num_labels or 0)), torch.nan)
    with view.progress.task("asking the suspect", len(order)) as tick:
        for start in range(0, len(order), PART):
            rows = order[start : start + PART]
            found[rows] = logits(view.anatomy, train.take(rows), view.runtime)
            tick(len(rows), "")
    return found


def following(view: DefenderView, weight: float) -> Criterion:
    """Return the loss of logits for training texts, the suspect's counting so much, 0 to 1.

    Row r of what is trained on is text r of the view modulo their number, or its probe.

    Raises:
        UserError: the view does not know what the suspect said of its training texts.

    """
    if view.taught is None or len(view.taught) != len(view.train):
        raise UserError(
            "it is not known what the suspect says of the training texts",
            "give the view taught=distillation.taught(view), made before anything is pruned",
        )
    known = ~view.taught.isnan().any(-1)
    wanted = (view.taught.nan_to_num() / TEMPERATURE).log_softmax(-1)

    def loss(found: Tensor, batch: Batch) -> Tensor:
        rows = batch.index % len(wanted)
        follow = weight * known[rows].to(found)
        student = (found / TEMPERATURE).log_softmax(-1)
        teacher = wanted[rows].to(found.device)
        apart = nn.functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
        plain = nn.functional.cross_entropy(found, batch.labels, reduction="none")
        return ((1 - follow) * plain + follow * TEMPERATURE**2 * apart).mean()

    return loss
