"""Scores of heads: what is estimated, on clean examples (and probes made of them) only.

A score is a flat tensor [unit], float32 on the CPU; a low score means "prune first". Every score
says what it is of a key/value group, the unit of models with grouped queries.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any, Concatenate, ParamSpec

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
from headsweep.task.examples import forward
from headsweep.task.fitting import Fitting
from headsweep.task.training import casting, check_finite
from headsweep.texts.encoded import Batch, Encoded
from headsweep.texts.generation import Generation

P = ParamSpec("P")
BF16_WIDTH = 512  # of hidden states; MiniLM (384) gains nothing, SmolLM2 (576) a quarter to a third


def _cast(view: DefenderView, encoded: Encoded) -> AbstractContextManager[Any]:
    """Return what scores are taken in: bf16, where that is faster and the model bears it.

    They rank units, and no answer is counted. On a processor only models as wide as this gain.
    """
    model = view.anatomy.model
    width = int(getattr(model.config.get_text_config(), "hidden_size", 0))
    if model.device.type == "cpu" and width < BF16_WIDTH:
        return nullcontext()
    return casting(model, encoded.batch(range(min(2, len(encoded)))), view.runtime)


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
        asked |= {"adapter": asdict(view.anatomy.adapter)}
        model = view.anatomy.model
        return view.scores.of(score.__name__, model, asked, lambda: score(view, *args, **kwargs))

    return call


@shared
def gate_importance(view: DefenderView, examples: int | None = None) -> Tensor:
    """Return the mean absolute ∂loss/∂gate over examples, each row scaled to unit Euclidean norm.

    Source: Michel et al. 2019, section 4.1 (the score) and their per-layer normalisation,
    which follows Molchanov et al. 2017. Of a key/value group: one gate closes all its query heads,
    so that the gradients at theirs are summed, and the size is taken of the sum. Cost: one forward
    and backward pass, in bf16 where that is faster.
    """
    anatomy, encoded = view.anatomy, sample(view, examples)
    total = torch.zeros(anatomy.layout.units)
    cast = _cast(view, encoded)

    def pulls(batch: Batch) -> Sequence[Tensor]:
        with cast:
            return [gate_gradients(anatomy, batch).abs().sum(0)]

    with frozen(anatomy):
        for parts in scored(view, encoded, "scoring heads", pulls):
            for _, (found,) in parts:
                total += found.cpu()
    return normalised(total / len(encoded), anatomy.layout)


@shared
def key_gradient_importance(view: DefenderView, examples: int | None = None) -> Tensor:
    """Return mean over batches of ‖∂loss/∂W_K restricted to the rows of the head‖.

    Source: Chapagain et al. 2025, the gradient-based strategy. Of a key/value group: the rows of
    its one key. Deviation: where single query heads that share keys are the units, their key
    gradients are one and the same and would tie, so there the rows of W_Q count. Attention only.
    Cost: one forward and backward pass.
    """
    anatomy, encoded = view.anatomy, sample(view, examples)
    sites = anatomy.sites
    if any(site.row.kind == "ffn" for site in sites):
        raise UserError("the key score ranks heads only", "use --set score=gate, or --units heads")
    total = torch.zeros(sum(site.row.units for site in sites))
    blocks = [site.roles["key" if site.row.group == 1 else "query"] for site in sites]

    def gradients(batch: Batch) -> Sequence[Tensor]:
        loss = batch.task.losses(forward(anatomy.model, batch), batch.labels).mean()
        return torch.autograd.grad(loss * batch.share, [block.parameter for block in blocks])

    count = 0
    with frozen(anatomy, but=[block.parameter for block in blocks]):
        for parts in scored(view, encoded, "scoring heads", gradients):
            norms = []
            for site, block, *shares in zip(sites, blocks, *(x for _, x in parts), strict=True):
                grad = torch.stack(shares).sum(0)
                found = [block.within(grad, unit).norm() for unit in range(site.row.units)]
                norms.append(torch.stack(found).float().cpu())
            total += torch.cat(norms)
            count += 1
    return total / count


@shared
def attention_variance(
    view: DefenderView, examples: int | None = None, columns: int | None = None
) -> Tensor:
    """Return the mean over examples of the variance of a head's attention over tokens.

    The row of attention is the one that the classifier reads: the first token's, or the last
    token's of a decoder. Padding is left out. Of a key/value group: the mean over its query heads.
    Source: Zhao et al. 2024, section 4.1.

    Args:
        view: the suspect and its data.
        examples: training examples at most.
        columns: divide by this fixed number of columns instead, padding counted as zero
            attention, as the released scripts do.

    Raises:
        UserError: FFN groups are among the units: they have no attention.

    """
    anatomy, encoded = view.anatomy, sample(view, examples)
    if any(row.kind == "ffn" for row in anatomy.layout.rows):
        raise UserError(
            "attention variance ranks heads only, not FFN groups",
            "use --units heads, or a strategy that ranks by gate gradient",
        )
    found = zip(anatomy.layout.rows, _variances(view, encoded, columns), strict=True)
    return torch.cat([heads.unflatten(0, (row.units, row.queries)).mean(1) for row, heads in found])


def variance_by_layer(view: DefenderView, examples: int | None = None) -> list[Tensor]:
    """Return ``attention_variance`` of every query head, [layer][head], whatever the units are."""
    return _variances(view, sample(view, examples), None)


def _variances(view: DefenderView, encoded: Encoded, columns: int | None) -> list[Tensor]:
    anatomy, totals = view.anatomy, list[Tensor]()
    with torch.inference_mode(), evaluating(anatomy), attention_rows(anatomy) as read:

        def variances(batch: Batch) -> Sequence[Tensor]:
            _, rows = read(batch)
            wide = [row.cpu().double() for row in rows]  # Apple's GPUs have no float64
            return [_variance(row, batch, columns).sum(0).float() for row in wide]

        for parts in scored(view, encoded, "attention statistics", variances):
            for _, found in parts:
                totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else [*found]
    return [total / len(encoded) for total in totals]


def _variance(row: Tensor, batch: Batch, columns: int | None) -> Tensor:
    """Return the variance over real tokens, [batch, head], of attention [batch, head, token].

    Of a generator over those of the prompt: the row is its last token's, which sees no answer.
    """
    real = batch.inputs["attention_mask"].cpu()
    if isinstance(batch.task, Generation):
        places = batch.task.attends(batch, None).cpu()
        real = real * (torch.arange(real.shape[1]) <= places[:, None])
    real = real.unsqueeze(1)  # [batch, 1, token]
    count = real.sum(-1) if columns is None else torch.full_like(real.sum(-1), columns)
    mean = (row * real).sum(-1) / count
    return ((row**2) * real).sum(-1) / count - mean**2


@shared
def dormancy(view: DefenderView, examples: int | None = None) -> Tensor:
    """Return the mean absolute activation of every unit over real tokens of clean examples.

    Of a key/value group: over the outputs of all its query heads. Of layers that share weights
    (ALBERT): over all of them.
    Source: Liu et al. 2018 (*Fine-Pruning*), section 4: dormant neurons are pruned first.
    """
    anatomy, encoded = view.anatomy, sample(view, examples)
    total = torch.zeros(anatomy.layout.units, dtype=torch.float64)
    with torch.inference_mode(), evaluating(anatomy), unit_outputs(anatomy) as found:

        def sizes(batch: Batch) -> Sequence[Tensor]:
            forward(anatomy.model, batch)
            real = batch.inputs["attention_mask"].unsqueeze(-1)
            sums = [
                [(by_text(x, batch).abs() * real.to(x.device)).sum((0, 1)) for x in passes]
                for passes in found
            ]
            summed = [torch.stack(each).mean(0) for each in sums]
            return [
                x.unflatten(0, (site.row.units, -1)).mean(-1).cpu().double()
                for site, x in zip(anatomy.sites, summed, strict=True)
            ]

        for parts in scored(view, encoded, "activations", sizes):
            for _, each in parts:
                total += torch.cat([*each])
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
    if examples is not None and examples < 1:  # of a strategy of one's own
        raise UserError(f"examples must be at least 1, not {examples}")
    if examples is None or examples >= len(view.train):
        return view.train
    order = torch.randperm(len(view.train), generator=view.generator("score-sample"))
    return view.train.take(sorted(order[:examples].tolist()))


def scored(
    view: DefenderView,
    encoded: Encoded,
    title: str,
    work: Callable[[Batch], Sequence[Tensor]],
) -> Iterator[list[tuple[Batch, Sequence[Tensor]]]]:
    """Yield of every batch its parts that memory holds, each with what the work gives for it.

    Raises:
        DivergedError: that holds what is no number.

    """
    device, fitting = view.anatomy.model.device, Fitting()
    with view.progress.task(title, len(encoded)) as tick:
        for step, batch in enumerate(encoded.batches(view.runtime.batch_size), 1):
            parts = fitting.parts(batch.to(device), work)
            for _, found in parts:
                check_finite(found, title, step)
            yield parts
            tick(len(batch), "")
