"""Scores of heads: what is estimated, on clean examples (and probes made of them) only.

A score is a flat tensor [unit], float32 on the CPU; a low score means "prune first".
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

from headsweep.errors import UserError
from headsweep.model.anatomy import Anatomy
from headsweep.model.attention_rows import attention_rows
from headsweep.model.borrowing import (
    by_text,
    evaluating,
    frozen,
    unit_outputs,
)
from headsweep.model.gates import gates
from headsweep.model.mask import Layout
from headsweep.prune.view import DefenderView
from headsweep.task.classification import forward
from headsweep.texts.encoded import Batch, Encoded

P = ParamSpec("P")


def gate_gradients(anatomy: Anatomy, batch: Batch) -> Tensor:
    """Return every example's ∂loss/∂gate, [batch, unit], from one backward pass.

    The loss of an example is its task's; gates are 1.
    """
    values = torch.ones(len(batch.labels), anatomy.layout.units, device=anatomy.model.device)
    values.requires_grad_()
    with gates(anatomy, values):
        found = forward(anatomy.model, batch)
    loss = batch.task.losses(found, batch.labels).sum()
    return torch.autograd.grad(loss, values)[0].detach()


def shared(
    score: Callable[Concatenate[DefenderView, P], Tensor],
) -> Callable[Concatenate[DefenderView, P], Tensor]:
    """Let a score be kept where the view keeps scores."""
    signature = inspect.signature(score)

    @functools.wraps(score)
    def call(view: DefenderView, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if view.scores is None:
            return score(view, *args, **kwargs)
        bound = signature.bind(view, *args, **kwargs)
        bound.apply_defaults()
        asked = {name: value for name, value in bound.arguments.items() if name != "view"}
        asked |= {"texts": view.train.sha256, "seed": view.seed, "runtime": asdict(view.runtime)}
        asked |= {"units": [asdict(row) for row in view.layout.rows]}
        model = view.anatomy.model
        return view.scores.of(score.__name__, model, asked, lambda: score(view, *args, **kwargs))

    return call


@shared
def gate_importance(view: DefenderView, examples: int | None = None) -> Tensor:
    """Return the mean absolute ∂loss/∂gate over examples, each row scaled to unit Euclidean norm.

    Source: Michel et al. 2019, section 4.1 (the score) and their per-layer normalisation,
    which follows Molchanov et al. 2017. Cost: one forward and backward pass.
    """
    anatomy, encoded = view.anatomy, sample(view, examples)
    total = torch.zeros(anatomy.layout.units)
    with frozen(anatomy), view.progress.task("scoring heads", len(encoded)) as tick:
        for batch in batches(view, encoded):
            total += gate_gradients(anatomy, batch).abs().sum(0).cpu()
            tick(len(batch.labels), "")
    return normalised(total / len(encoded), anatomy.layout)


@shared
def key_gradient_importance(view: DefenderView, examples: int | None = None) -> Tensor:
    """Return mean over batches of ‖∂loss/∂W_K restricted to the rows of the head‖.

    Source: Chapagain et al. 2025, the gradient-based strategy. Deviation: where query heads
    share keys their key gradients are one and the same and would tie, so there the rows of
    W_Q count. Heads only. Cost: one forward and backward pass.
    """
    anatomy, encoded = view.anatomy, sample(view, examples)
    sites = anatomy.sites
    if any(site.row.kind != "head" for site in sites):
        raise UserError("the key score ranks heads only", "use --set score=gate, or --units heads")
    total = torch.zeros(sum(site.row.units for site in sites))
    blocks = [site.roles["key" if site.row.group == 1 else "query"] for site in sites]
    with (
        frozen(anatomy, but=[block.parameter for block in blocks]),
        view.progress.task("scoring heads", len(encoded)) as tick,
    ):
        count = 0
        for batch in batches(view, encoded):
            found = forward(anatomy.model, batch)
            loss = batch.task.losses(found, batch.labels).mean()
            grads = torch.autograd.grad(loss, [block.parameter for block in blocks])
            norms: list[Tensor] = []
            for site, block, grad in zip(sites, blocks, grads, strict=True):
                norms += [block.within(grad, unit).norm() for unit in range(site.row.units)]
            total += torch.stack(norms).float().cpu()
            count += 1
            tick(len(batch.labels), "")
    return total / count


@shared
def attention_variance(
    view: DefenderView, examples: int | None = None, columns: int | None = None
) -> Tensor:
    """Return the mean over examples of the variance of a head's attention over tokens.

    The row of attention is the one that the classifier reads: the first token's, or the last
    token's of a decoder. Padding is left out. Source: Zhao et al. 2024, section 4.1.

    Args:
        view: the suspect and its data.
        examples: training examples at most.
        columns: divide by this fixed number of columns instead, padding counted as zero
            attention, as the released scripts do.

    Raises:
        UserError: FFN groups are among the units: they have no attention.

    """
    anatomy, encoded = view.anatomy, sample(view, examples)
    if any(row.kind != "head" for row in anatomy.layout.rows):
        raise UserError(
            "attention variance ranks heads only, not FFN groups",
            "use --units heads, or a strategy that ranks by gate gradient",
        )
    return torch.cat(_variances(view, encoded, columns))


def variance_by_layer(view: DefenderView, examples: int | None = None) -> list[Tensor]:
    """Return ``attention_variance`` of every head, [layer][head], whatever the units are."""
    return _variances(view, sample(view, examples), None)


def _variances(view: DefenderView, encoded: Encoded, columns: int | None) -> list[Tensor]:
    anatomy, totals = view.anatomy, list[Tensor]()
    with (
        torch.inference_mode(),
        evaluating(anatomy),
        attention_rows(anatomy) as read,
        view.progress.task("attention statistics", len(encoded)) as tick,
    ):
        for batch in batches(view, encoded):
            _, rows = read(batch)
            wide = [row.cpu().double() for row in rows]  # Apple's GPUs have no float64
            found = [_variance(row, batch, columns).sum(0).float() for row in wide]
            totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else found
            tick(len(batch.labels), "")
    return [total / len(encoded) for total in totals]


def _variance(row: Tensor, batch: Batch, columns: int | None) -> Tensor:
    """Return the variance over real tokens, [batch, head], of attention [batch, head, token]."""
    real = batch.inputs["attention_mask"].cpu().unsqueeze(1)  # [batch, 1, token]
    count = real.sum(-1) if columns is None else torch.full_like(real.sum(-1), columns)
    mean = (row * real).sum(-1) / count
    return ((row**2) * real).sum(-1) / count - mean**2


@shared
def dormancy(view: DefenderView, examples: int | None = None) -> Tensor:
    """Return the mean absolute activation of every unit over real tokens of clean examples.

    Source: Liu et al. 2018 (*Fine-Pruning*), section 4: dormant neurons are pruned first.
    """
    anatomy, encoded = view.anatomy, sample(view, examples)
    total = torch.zeros(anatomy.layout.units, dtype=torch.float64)
    with (
        torch.inference_mode(),
        evaluating(anatomy),
        unit_outputs(anatomy) as found,
        view.progress.task("activations", len(encoded)) as tick,
    ):
        for batch in batches(view, encoded):
            forward(anatomy.model, batch)
            real = batch.inputs["attention_mask"].unsqueeze(-1)
            for site, part, x in zip(anatomy.sites, anatomy.layout.slices, found, strict=True):
                per_unit = (
                    (by_text(x, batch).abs() * real).sum((0, 1)).unflatten(0, (site.row.units, -1))
                )
                total[part] += per_unit.mean(-1).cpu().double()
            tick(len(batch.labels), "")
    return (total / encoded.tokens).float()


def standardised(scores: Tensor) -> Tensor:
    """Return the scores with mean 0 and standard deviation 1 over units."""
    return (scores - scores.mean()) / scores.std().clamp_min(1e-12)


def normalised(scores: Tensor, layout: Layout) -> Tensor:
    """Return the scores with each row scaled to unit Euclidean norm."""
    rows = [part / part.norm().clamp_min(1e-12) for part in layout.split(scores)]
    return torch.cat(rows)


def sample(view: DefenderView, examples: int | None) -> Encoded:
    """Return the training examples, or a fixed random part of them."""
    if examples is not None and examples < 1:
        raise UserError(f"examples must be at least 1, not {examples}")
    if examples is None or examples >= len(view.train):
        return view.train
    order = torch.randperm(len(view.train), generator=view.generator("score-sample"))
    return view.train.take(sorted(order[:examples].tolist()))


def batches(view: DefenderView, encoded: Encoded) -> Iterator[Batch]:
    """Yield the examples in batches, on the model's device."""
    device = view.anatomy.model.device
    for batch in encoded.batches(view.runtime.batch_size):
        yield batch.to(device)
