"""Scores of heads: what is estimated, on clean examples only.

A score is a flat tensor [unit], float32 on the CPU; a low score means "prune first".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from headsweep.heads import Anatomy, Layout, gates
from headsweep.predict import Batch, Encoded, forward
from headsweep.view import DefenderView


def gate_gradients(anatomy: Anatomy, batch: Batch) -> Tensor:
    """Return every example's ∂loss/∂gate, [batch, unit], from one backward pass.

    The loss of an example is its cross-entropy with its label; gates are 1.
    """
    values = torch.ones(len(batch.labels), anatomy.layout.units, device=anatomy.model.device)
    values.requires_grad_()
    with gates(anatomy, values):
        found = forward(anatomy.model, batch)
    loss = nn.functional.cross_entropy(found, batch.labels, reduction="sum")
    return torch.autograd.grad(loss, values)[0].detach()


def gate_importance(view: DefenderView, examples: int | None = None) -> Tensor:
    """Return the mean absolute ∂loss/∂gate over examples, each row scaled to unit Euclidean norm.

    Source: Michel et al. 2019, section 4.1 (the score) and their per-layer normalisation,
    which follows Molchanov et al. 2017. Cost: one forward and backward pass.
    """
    anatomy, encoded = view.anatomy, sample(view, examples)
    total = torch.zeros(anatomy.layout.units)
    with _frozen(anatomy), view.progress.task("scoring heads", len(encoded)) as tick:
        for batch in _batches(view, encoded):
            total += gate_gradients(anatomy, batch).abs().sum(0).cpu()
            tick(len(batch.labels), "")
    return normalised(total / len(encoded), anatomy.layout)


def key_gradient_importance(view: DefenderView, examples: int | None = None) -> Tensor:
    """Return mean over batches of ‖∂loss/∂W_K restricted to the rows of the head‖.

    Source: Chapagain et al. 2025, the gradient-based strategy. Deviation: where query heads
    share keys their key gradients are one and the same and would tie, so there the rows of
    W_Q count. Heads only. Cost: one forward and backward pass.
    """
    anatomy, encoded = view.anatomy, sample(view, examples)
    sites = [site for site in anatomy.sites if site.row.kind == "head"]
    total = torch.zeros(sum(site.row.units for site in sites))
    blocks = [site.roles["key" if site.row.group == 1 else "query"] for site in sites]
    with (
        _frozen(anatomy, but=[block.parameter for block in blocks]),
        view.progress.task("scoring heads", len(encoded)) as tick,
    ):
        batches = 0
        for batch in _batches(view, encoded):
            found = forward(anatomy.model, batch)
            loss = nn.functional.cross_entropy(found, batch.labels)
            grads = torch.autograd.grad(loss, [block.parameter for block in blocks])
            norms = []
            for site, block, grad in zip(sites, blocks, grads, strict=True):
                for unit in range(site.row.units):
                    start = block.start + unit * block.width
                    norms.append(grad.narrow(block.axis, start, block.width).norm())
            total += torch.stack(norms).float().cpu()
            batches += 1
            tick(len(batch.labels), "")
    return total / batches


def normalised(scores: Tensor, layout: Layout) -> Tensor:
    """Return the scores with each row scaled to unit Euclidean norm."""
    rows = [part / part.norm().clamp_min(1e-12) for part in layout.split(scores)]
    return torch.cat(rows)


def sample(view: DefenderView, examples: int | None) -> Encoded:
    """Return the training examples, or a fixed random part of them."""
    if examples is None or examples >= len(view.train):
        return view.train
    order = torch.randperm(len(view.train), generator=view.generator("score-sample"))
    return view.train.take(sorted(order[:examples].tolist()))


def _batches(view: DefenderView, encoded: Encoded) -> Iterator[Batch]:
    device = view.anatomy.model.device
    for batch in encoded.batches(view.runtime.batch_size):
        yield batch.to(device)


@contextmanager
def _frozen(anatomy: Anatomy, but: list[nn.Parameter] | None = None) -> Iterator[None]:
    """Take gradients for these parameters only, with the model in eval mode."""
    model = anatomy.model
    wanted = {id(p) for p in but or []}
    before = [(p, p.requires_grad) for p in model.parameters()]
    training = model.training
    model.eval()
    for p, _ in before:
        p.requires_grad_(id(p) in wanted)
    try:
        yield
    finally:
        model.train(training)
        for p, wants in before:
            p.requires_grad_(wants)
