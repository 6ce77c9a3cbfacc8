"""Attention normalisation: a penalty on attention that gathers on few tokens, for healing.

Source: Zhao, Xu, Yuan 2024, *Defense against Backdoor Attack on Pre-trained Language Models via
Head Pruning and Attention Normalization* (PURE), section 4.2. To the cross-entropy is added

    strength * sum over layers c_l * sum over heads sqrt(sum over batch and tokens A[CLS]^2)

with c_l the min-max of the normalised inverse attention variance of layer l, measured on the
pruned model, over the heads that it has left. Decoders: the last token's row of attention.
It needs attention weights, so attention is computed eagerly: slower.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headsweep.model.borrowing import read_rows
from headsweep.model.mask import HeadMask
from headsweep.prune.importance import variance_by_layer
from headsweep.prune.view import DefenderView
from headsweep.task.training import Loss
from headsweep.texts.encoded import Batch

PENALTY = 0.15  # the paper's strength
EXAMPLES = 500  # whose attention variance weighs the layers


def normalising(view: DefenderView, mask: HeadMask, strength: float) -> tuple[Loss, Tensor]:
    """Return a loss plus the penalty, for a pruned model; and the weights c_l, [layer].

    Use the loss inside ``importance.eager``, with the pruned heads in place (not cut out).

    Raises:
        UserError: the model gives no attention weights.

    """
    anatomy, variance = view.anatomy, variance_by_layer(view, EXAMPLES)
    heads = mask.heads or [[True] * len(layer) for layer in variance]
    keep = [torch.tensor(row) for row in heads]
    weights = layer_weights(variance, keep)

    def loss(model: PreTrainedModel, batch: Batch) -> Tensor:
        found = model(**batch.inputs, output_attentions=True)
        plain = batch.task.losses(found.logits.float(), batch.labels).mean()
        rows = read_rows(anatomy, batch, tuple(found.attentions))
        norms = [
            row[:, kept].float().square().sum((0, 2)).clamp_min(1e-12).sqrt().sum()
            for row, kept in zip(rows, keep, strict=True)
        ]
        penalty = sum(c * n for c, n in zip(weights.tolist(), norms, strict=True))
        return plain + strength * torch.as_tensor(penalty)

    return loss, weights


def layer_weights(variance: Sequence[Tensor], keep: Sequence[Tensor]) -> Tensor:
    """Return c_l, [layer] in 0 to 1: min-max of the normalised inverse variance of each layer.

    Args:
        variance: of every head, [layer][head].
        keep: which heads stay, [layer][head].

    A layer's variance is the mean over the heads that stay: a pruned head attends to all tokens
    alike, and its variance of zero would say nothing about the layer.
    """
    rows = zip(variance, keep, strict=True)
    means = torch.stack([part[kept].mean() for part, kept in rows])
    inverse = 1 / means.clamp_min(1e-12)
    share = inverse / inverse.sum()
    spread = share.max() - share.min()
    if spread <= 0:
        return torch.ones_like(share)
    scaled: Tensor = (share - share.min()) / spread
    return scaled
