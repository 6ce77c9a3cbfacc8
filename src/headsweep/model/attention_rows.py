"""The row of attention that the classifier reads, of every head, beside the fast kernels.

Whole attention weights can be had only where attention is computed step by step ("eager"): a
matrix of tokens by tokens for every head. Of it only one row is wanted, that of the token that the
classifier reads. So attention runs through the kernels that the model uses anyway, and one query
against all keys is computed a second time: from the layer's own query and key, after whatever the
layer did to them, with the layer's own mask. Heads that are cut out of the layer cost nothing.

Where a model does not hand its query and key to an exchangeable attention function (DeBERTa,
MPNet), the rows are read from eager attention: the same numbers, slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from headsweep.model.anatomy import Anatomy, layers_of
from headsweep.model.borrowing import attentions, eager, evaluating, no_attention, uncached
from headsweep.model.padding import probe_inputs
from headsweep.texts.encoded import Batch

NAME = "headsweep_rows"  # of the attention function, in transformers' table
ALIKE, ALIKE_NARROW = 1e-3, 5e-2  # of logits, which other kernels round otherwise
CLOSE = 1e-4  # rows are shares of attention: what rounding may change
Rows = tuple[Tensor, tuple[Tensor, ...]]
"""Logits and, of every layer, the row [batch, head, token]."""
Read = Callable[[Batch], Rows]


@dataclass
class _Wanted:
    """What the forward pass under way is asked for."""

    places: Tensor | None = None
    rows: list[Tensor] = field(default_factory=list)


_wanted = _Wanted()


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Compute attention as ever, and keep the rows that are wanted."""
    if _wanted.places is not None:
        row = _row(module, query, key, attention_mask, scaling)
        _wanted.rows.append(row)
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **more
    )


def _row(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """Return softmax(q k) of the wanted place, [batch, head, token], before dropout."""
    assert _wanted.places is not None
    places = _wanted.places.to(query.device)  # layers may lie on several devices
    texts, heads, tokens, width = query.shape
    number = torch.arange(texts, device=query.device)
    own = query[number, :, places].float()  # [batch, head, width]
    keys = key.repeat_interleave(heads // key.shape[1], dim=1).float()
    scores = torch.einsum("bhw,bhtw->bht", own, keys)
    scores = scores * (width**-0.5 if scaling is None else scaling)
    if mask is not None:
        allowed = mask.expand(texts, -1, -1, -1)[number, :, places, : keys.shape[2]]
        low = torch.finfo(scores.dtype).min
        if allowed.dtype == torch.bool:
            scores = scores.masked_fill(~allowed, low)
        else:
            scores = scores + allowed.float()
    elif getattr(module, "is_causal", False):
        later = torch.arange(tokens, device=query.device) > places[:, None]
        scores = scores.masked_fill(later[:, None], torch.finfo(scores.dtype).min)
    return scores.softmax(-1)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def attention_rows(anatomy: Anatomy) -> Iterator[Read]:
    """Lend a function that passes a batch and returns logits and rows.

    Raises:
        UserError: the model gives no attention, or computes otherwise where it is read; from the
            function, where its task has no one row of it.

    """
    beside = beside_kernels(anatomy)
    if not (beside or gives_attention(anatomy)):
        raise no_attention()
    how = _read if beside else _read_eagerly

    def read(batch: Batch) -> Rows:
        return how(anatomy, batch.inputs, batch.task.attends(batch, anatomy.last))

    with _exchanged(anatomy) if beside else eager(anatomy):
        yield read


def gives_attention(anatomy: Anatomy) -> bool:
    """Tell whether the model's attention can be read, and is that of the model as it computes.

    Checked on two texts, one of them padded: the logits are those without reading it.
    """
    inputs = _two_texts(anatomy)
    with suppress(Exception), torch.no_grad(), evaluating(anatomy):
        plain = anatomy.model(**inputs, **uncached(anatomy.model)).logits
        with eager(anatomy):
            logits, _ = _read_eagerly(anatomy, inputs, _ends(inputs))
        alike = ALIKE if plain.dtype == torch.float32 else ALIKE_NARROW
        return bool(torch.allclose(plain, logits, rtol=alike, atol=alike * float(plain.std())))
    return False


def beside_kernels(anatomy: Anatomy) -> bool:
    """Tell whether the rows can be had without eager attention, also of heads that are cut out.

    Checked on two texts, one of them padded: the rows of eager attention, and the same logits.
    """
    if anatomy.model.config._attn_implementation != "sdpa":
        return False
    inputs = _two_texts(anatomy)
    with suppress(Exception), torch.no_grad(), evaluating(anatomy):
        with eager(anatomy):
            logits, rows = _read_eagerly(anatomy, inputs, _ends(inputs))
        with _exchanged(anatomy):
            again, own = _read(anatomy, inputs, _ends(inputs))
        return len(rows) == len(own) and all(
            a.shape == b.shape and bool(torch.allclose(a, b.to(a.device), atol=CLOSE))
            for a, b in zip((logits, *rows), (again, *own), strict=True)
        )
    return False


@contextmanager
def _exchanged(anatomy: Anatomy) -> Iterator[None]:
    model = anatomy.model
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _two_texts(anatomy: Anatomy) -> dict[str, Tensor]:
    """Return two texts, the last tokens of one of them padding."""
    inputs = probe_inputs(anatomy.model)
    inputs["attention_mask"][-1, -2:] = 0
    return inputs


def _ends(inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the last real token of each text, [batch]: a row as good as any to compare."""
    return inputs["attention_mask"].sum(-1) - 1


def _read(anatomy: Anatomy, inputs: Mapping[str, Tensor], places: Tensor) -> Rows:
    _wanted.places, _wanted.rows = places, []
    try:
        logits = anatomy.model(**inputs, **uncached(anatomy.model)).logits
        rows = tuple(_wanted.rows)
    finally:
        _wanted.places, _wanted.rows = None, []
    if len(rows) != len(layers_of(anatomy)):
        raise RuntimeError(f"attention of {len(rows)} layers was seen")
    return logits, rows


def _read_eagerly(anatomy: Anatomy, inputs: Mapping[str, Tensor], places: Tensor) -> Rows:
    found = attentions(anatomy, inputs)
    number = torch.arange(len(places))
    return found.logits, tuple(layer[number, :, places] for layer in found.attentions)
