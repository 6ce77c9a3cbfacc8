"""Gates that close units for a while, and the check that they reach the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headsweep.errors import UserError
from headsweep.model.anatomy import Anatomy
from headsweep.model.mask import HeadMask
from headsweep.model.removal import zeroed

ZEROED = 1e-4  # of the largest logit: gates and zeroed weights are the same to rounding


@contextmanager
def gates(anatomy: Anatomy, values: Tensor) -> Iterator[None]:
    """Multiply every unit's output by its gate, inside this context.

    Args:
        anatomy: the model.
        values: [unit], or [batch, unit] for a gate of its own for each example.

    """
    _check_width(anatomy, values)
    with ExitStack() as stack:
        for site, value in zip(anatomy.sites, anatomy.layout.split(values), strict=True):
            wide = value.repeat_interleave(site.row.width, dim=-1)  # [(batch,) unit * width]
            stack.enter_context(hooked(site.gate, wide))
        yield


@contextmanager
def masked(anatomy: Anatomy, mask: HeadMask) -> Iterator[None]:
    """Close the gates of the pruned units, inside this context; full rows cost nothing."""
    if not mask.fits(anatomy.layout):
        raise UserError(
            f"a head mask of {len(mask.flat)} units for a model of {anatomy.layout.units}",
            "the mask was made for another model, or for other units",
        )
    with ExitStack() as stack:
        for site, keep in zip(anatomy.sites, mask.rows, strict=True):
            if not all(keep):
                value = torch.tensor(keep, dtype=torch.float32, device=site.device)
                wide = value.repeat_interleave(site.row.width)
                stack.enter_context(hooked(site.gate, wide))
        yield


def _check_width(anatomy: Anatomy, values: Tensor) -> None:
    if values.shape[-1] != anatomy.layout.units:
        raise ValueError(f"{values.shape[-1]} gates for {anatomy.layout.units} units")


@contextmanager
def hooked(module: nn.Module, wide: Tensor) -> Iterator[None]:
    """Multiply the input of a module by [width] or [batch, width], inside this context."""

    def close(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = args  # [batch, token, unit * width]; OPT's FFN: [batch * token, unit * width]
        beside = x.shape[-1] - wide.shape[-1]  # ConvBERT's convolutions lie behind the heads
        here = wide.to(x.device, x.dtype)  # layers may lie on several devices
        factor = nn.functional.pad(here, (0, beside), value=1.0)
        if factor.dim() == 2:
            tokens = x.shape[0] // factor.shape[0]
            flat = x.dim() == 2
            factor = factor.repeat_interleave(tokens, 0) if flat else factor.unsqueeze(1)
        return (x * factor, *rest)

    handle = module.register_forward_pre_hook(close)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def check_gates(
    anatomy: Anatomy, inputs: Mapping[str, Tensor], padding: int = 0, axes: int = 2
) -> tuple[str, ...]:
    """Check that gates reach the model, and that closing them is what removal does.

    A mask that silently never reaches the model is the classic failure of this field, so this
    runs on every load: one forward pass a row on a tiny input, and four more.

    Args:
        anatomy: the model.
        inputs: a small batch.
        padding: the number of the token that fills batches.
        axes: of the logits: 2, [text, class], or of a generator 3, [text, token, vocabulary].

    Returns:
        A note, where the answer to a text depends on how far it is padded.

    Raises:
        UserError: the model cannot read the input, its output did not change or is not finite,
            or the weights of a unit are not where the adapter says.

    """
    model = anatomy.model
    training = model.training
    model.eval()
    try:
        before = _read(model, inputs, axes)
        scale = float(before.abs().max())
        notes = _check_padding(model, inputs, padding, scale, axes)
        _check_reach(anatomy, inputs, before)
        _check_places(anatomy, inputs, scale)
        return notes
    finally:
        model.train(training)


def _read(model: PreTrainedModel, inputs: Mapping[str, Tensor], axes: int) -> Tensor:
    """Return the logits of a first batch, if the model can read one."""
    try:
        logits: Tensor = model(**inputs).logits
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an unforeseen architecture trips over
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{type(model).__name__} cannot read a small batch of token numbers with their "
            f"attention mask: {reason}",
            "only classifiers that read padded texts of any length are supported",
        ) from error
    if logits.dim() != axes:
        raise UserError(
            f"{type(model).__name__} gives an answer of the shape {list(logits.shape)} to "
            f"{len(logits)} texts",
            "only classifiers that give every text one answer are supported",
        )
    if not logits.isfinite().all():
        raise UserError(
            "the model's output is not finite (NaN or infinity)",
            "the checkpoint is broken, or holds NaN weights: get it again",
        )
    return logits


def _check_padding(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], pad: int, scale: float, axes: int
) -> tuple[str, ...]:
    """Compare the answer to a text alone with the answer to it in a padded batch."""
    padded = _padded(inputs, pad)
    together = _read(model, padded, axes)[-1]
    length = int(padded["attention_mask"][-1].sum())
    short = {name: tensor[-1:, :length] for name, tensor in padded.items()}
    alone = _read(model, short, axes)[0]
    together = together[: len(alone)]  # of a generator: the tokens that are no padding
    gap = float((together - alone).abs().max())
    if gap <= ZEROED * scale:
        return ()
    return (
        f"padding changes what this model answers (logits by {gap:.1e} here), since transformers "
        "does not hide it from this architecture: --compute batch_size=1 pads nothing",
    )


def _padded(inputs: Mapping[str, Tensor], pad: int) -> dict[str, Tensor]:
    """Return the inputs with the last text cut to half, an odd length, by padding."""
    made = {name: tensor.clone() for name, tensor in inputs.items()}
    half = made["input_ids"].shape[1] // 2 | 1
    made["input_ids"][-1, half - 1] = made["input_ids"][-1, -1]  # a text ends as it did
    made["input_ids"][-1, half:] = pad
    made["attention_mask"][-1, half:] = 0
    return made


def _check_reach(anatomy: Anatomy, inputs: Mapping[str, Tensor], before: Tensor) -> None:
    """Check that closing all gates of any one row changes the output."""
    for site, part in zip(anatomy.sites, anatomy.layout.slices, strict=True):
        closed = torch.ones(anatomy.layout.units, device=before.device)
        closed[part] = 0
        with gates(anatomy, closed):
            after = anatomy.model(**inputs).logits
        if torch.equal(before, after):
            raise UserError(
                f"closing every {site.row.kind} of layer {site.row.layer} changes nothing",
                "either the layer's weights are zero already, or the adapter points at a "
                "module that the model does not run (docs/guide.md, adapters)",
            )


def _check_places(anatomy: Anatomy, inputs: Mapping[str, Tensor], scale: float) -> None:
    """Check that removing one unit a row, or one key/value group, does what its gates do.

    Another unit in every row, so that no one place hides a wrong order. The weights are zeroed
    for one forward pass and put back.
    """
    layout, units = anatomy.layout, list[int]()
    for number, (row, part) in enumerate(zip(layout.rows, layout.slices, strict=True)):
        size = row.group if row.group < row.units else 1
        start = part.start + number % (row.units // size) * size
        units += range(start, start + size)
    mask = layout.mask(units)
    with masked(anatomy, mask):
        gated = anatomy.model(**inputs).logits
    with zeroed(anatomy, mask):
        gap = float((anatomy.model(**inputs).logits - gated).abs().max())
    if not gap <= ZEROED * scale:
        raise UserError(
            "zeroing the weights of a head does not do what closing its gate does (logits "
            f"differ by {gap:.1e}): the layout of the projections does not fit the adapter",
            "one projection of all three is read as queries, keys, values; with interleaved = true "
            "group by group; what the heads give must go into the output, or into the gate that is "
            "named (docs/guide.md, adapters)",
        )
