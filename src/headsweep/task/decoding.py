"""Greedy decoding: what a generator writes when it always takes the most likely token.

Not transformers' ``generate``: that follows a configuration of whoever made the model (beams,
penalties, forced tokens). Prompts of the same length go through together, so that nothing is
padded, and keys and values are kept from one token to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headsweep.texts.task import taken


@torch.inference_mode()
def greedy(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    most: int,
    ends: Collection[int] = (),
    size: int = 32,
    cached: bool = True,
) -> list[list[int]]:
    """Return the tokens that a model writes to each prompt, without the one that ends them.

    Args:
        model: a causal language model, in eval mode.
        prompts: token numbers of each; none is empty.
        most: how many tokens are written at most: a model may never end.
        ends: the tokens that end a text.
        size: prompts at once.
        cached: keep keys and values; else every token costs a whole pass.

    """
    found: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for _, same in groupby(order, key=lambda i: len(prompts[i])):
        rows = list(same)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            ids = torch.tensor([list(prompts[i]) for i in part], device=model.device)
            for row, told in zip(part, _written(model, ids, most, ends, cached), strict=True):
                found[row] = told
    return found


def _written(
    model: PreTrainedModel, ids: Tensor, most: int, ends: Collection[int], cached: bool
) -> list[list[int]]:
    """Return what is written to prompts of one length, [prompt, token]."""
    told: list[list[int]] = [[] for _ in range(len(ids))]
    done = [False] * len(ids)
    now, past = ids, None
    for _ in range(most):
        more = taken(model, logits_to_keep=1)
        said = model(input_ids=now, past_key_values=past, use_cache=cached, **more)
        new = said.logits[:, -1].argmax(-1)
        for row, token in enumerate(new.tolist()):
            done[row] = done[row] or token in ends
            if not done[row]:
                told[row].append(token)
        if all(done):
            break
        ids = torch.cat([ids, new[:, None]], dim=1)
        past = getattr(said, "past_key_values", None) if cached else None
        now = ids if past is None else new[:, None]
    return told
