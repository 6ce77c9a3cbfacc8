"""Attention normalisation: a penalty on attention that gathers on few tokens, for healing.

Source: Zhao, Xu, Yuan 2024, *Defense against Backdoor Attack on Pre-trained Language Models via
Head Pruning and Attention Normalization* (PURE), section 4.2. To the cross-entropy is added

    strength * sum over layers c_l * sum over heads sqrt(sum over batch and tokens A[CLS]^2)

with c_l the min-max of the normalised inverse attention variance of layer l, measured on the
pruned model, over the heads that it has left. Decoders: the last token's row of attention.
Only that row is computed, beside the fast kernels (``attention_rows``), and before the dropout of
attention: PURE's scripts take the whole attention after it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headsweep.model.anatomy import layers_of
from headsweep.model.attention_rows import Read
from headsweep.model.mask import HeadMask
from headsweep.prune.importance import variance_by_layer
from headsweep.prune.view import DefenderView
from headsweep.task.training import Loss
from headsweep.texts.encoded import Batch

PENALTY = 0.15  # the paper's strength
EXAMPLES = 500  # whose attention variance weighs the layers


def weights_of(view: DefenderView, mask: HeadMask) -> Tensor:
    """Return the weights c_l of a pruned model's layers, [layer].

    Raises:
        UserError: the model gives no attention weights.

    """
    keep = kept_heads(view, mask)
    dead = kept_heads(view, view.layout.mask(view.gone))  # False: at zero before, as if pruned now
    some = [a & b if bool((a & b).any()) else a for a, b in zip(keep, dead, strict=True)]
    return layer_weights(variance_by_layer(view, EXAMPLES), some)


def kept_heads(view: DefenderView, mask: HeadMask) -> list[Tensor]:
    """Return which query heads stay, [layer][head], whatever the units are."""
    found = view.layout.per_query(torch.tensor(mask.flat))
    if found:
        return found
    heads = int(view.anatomy.model.config.num_attention_heads)
    return [torch.ones(heads, dtype=torch.bool)] * len(layers_of(view.anatomy))


def normalising(read: Read, weights: Tensor, keep: Sequence[Tensor], strength: float) -> Loss:
    """Return a loss plus the penalty.

    Args:
        read: lent by ``attention_rows``.
        weights: c_l, [layer].
        keep: which heads stay, [layer][head]; heads that are cut out are not among the rows.
        strength: the weight of the penalty.

    """
    shares = weights.tolist()

    def loss(_: PreTrainedModel, batch: Batch) -> Tensor:
        found, rows = read(batch)
        plain = batch.task.losses(found.float(), batch.labels).mean()
        norms = [
            (row[:, kept] if row.shape[1] == len(kept) else row)
            .float()
            .square()
            .sum((0, 2))
            .div(batch.share)  # a part of a batch stands for all of it
            .clamp_min(1e-12)
            .sqrt()
            .sum()
            for row, kept in zip(rows, keep, strict=True)
        ]
        penalty = sum(c * n.to(plain.device) for c, n in zip(shares, norms, strict=True))
        return plain + strength * torch.as_tensor(penalty)

    return loss


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
