"""Scores of heads: what is estimated, on clean examples (and probes made of them) only.

A score is a flat tensor [unit], float32 on the CPU; a low score means "prune first".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headsweep.errors import UserError
from headsweep.heads import Anatomy, Layout, gates
from headsweep.predict import Batch, Encoded, forward
from headsweep.probes import Family, required
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
    sites = anatomy.sites
    if any(site.row.kind != "head" for site in sites):
        raise UserError("the key score ranks heads only", "use --set score=gate, or --units heads")
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
    total = torch.zeros(anatomy.layout.units)
    with (
        torch.inference_mode(),
        evaluating(anatomy),
        eager(anatomy),
        view.progress.task("attention statistics", len(encoded)) as tick,
    ):
        for batch in _batches(view, encoded):
            rows = read_rows(anatomy, batch, attentions(anatomy, batch))
            for row, part in zip(rows, anatomy.layout.slices, strict=True):
                total[part] += _variance(row.double(), batch, columns).sum(0).float().cpu()
            tick(len(batch.labels), "")
    return total / len(encoded)


def _variance(row: Tensor, batch: Batch, columns: int | None) -> Tensor:
    """Return the variance over real tokens, [batch, head], of attention [batch, head, token]."""
    real = batch.inputs["attention_mask"].unsqueeze(1)  # [batch, 1, token]
    count = real.sum(-1) if columns is None else torch.full_like(real.sum(-1), columns)
    mean = (row * real).sum(-1) / count
    return ((row**2) * real).sum(-1) / count - mean**2


def attentions(anatomy: Anatomy, batch: Batch) -> tuple[Tensor, ...]:
    """Return every layer's attention, [batch, head, token, token]; needs ``eager``."""
    found = anatomy.model(**batch.inputs, output_attentions=True).attentions
    if not found or found[0] is None:
        raise UserError("this model gives no attention weights, which this method needs")
    return tuple(found)


def read_rows(anatomy: Anatomy, batch: Batch, found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return of every layer the row that the classifier reads, [batch, head, token]."""
    if not anatomy.adapter.reads_last:
        return tuple(layer[:, :, 0] for layer in found)
    last = batch.inputs["attention_mask"].sum(-1) - 1  # right padding
    return tuple(layer[torch.arange(len(last)), :, last] for layer in found)


@contextmanager
def eager(anatomy: Anatomy) -> Iterator[None]:
    """Compute attention so that its weights can be read; hand the backend back as it was."""
    model = anatomy.model
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def evaluating(anatomy: Anatomy) -> Iterator[None]:
    """Switch dropout off inside."""
    training = anatomy.model.training
    anatomy.model.eval()
    try:
        yield
    finally:
        anatomy.model.train(training)


@contextmanager
def unit_outputs(anatomy: Anatomy) -> Iterator[list[Tensor]]:
    """Collect what enters every gate in a forward pass: [batch, token, width] in site order."""
    found = [torch.empty(0)] * len(anatomy.sites)

    def keep(place: int, args: tuple[Any, ...]) -> None:
        found[place] = args[0].detach()

    with ExitStack() as stack:
        for place, site in enumerate(anatomy.sites):
            hook = site.gate.register_forward_pre_hook(
                lambda _, args, place=place: keep(place, args)
            )
            stack.callback(hook.remove)
        yield found


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
        for batch in _batches(view, encoded):
            forward(anatomy.model, batch)
            real = batch.inputs["attention_mask"].unsqueeze(-1)
            for site, part, x in zip(anatomy.sites, anatomy.layout.slices, found, strict=True):
                per_unit = (x.abs() * real).sum((0, 1)).unflatten(0, (site.row.units, -1))
                total[part] += per_unit.mean(-1).double().cpu()
            tick(len(batch.labels), "")
    return (total / encoded.tokens).float()


@dataclass(frozen=True)
class Flips:
    """What heads do to the flips of one probe family into one label.

    Attributes:
        family: its name.
        label: the label flipped into.
        flips: share of the probes of other labels answered with this label, whose original is
            not.
        reverse: the mean of the same into the other labels.
        contribution: [unit], the mean over pairs of ∂margin/∂gate on the probe minus that on its
            original, in standard deviations over units; high: the unit carries the flip.

    """

    family: str
    label: int
    flips: float
    reverse: float
    contribution: Tensor

    @property
    def excess(self) -> float:
        """Flips into this label beyond those into the others: the sign of a backdoor."""
        return max(0.0, self.flips - self.reverse)


def flip_contribution(view: DefenderView, pairs: int | None = 200) -> list[Flips]:
    """Return the signed contribution of every unit to the flips of every family and label.

    The margin of a label is its logit minus the best other; gates are 1, and the pairs counted
    are those of other true labels. Source: own; the gate gradient is Michel et al. 2019's, with
    its sign, and of the flip instead of the loss.
    Cost: a forward and a backward pass (one a label, where there are more than two) over ``pairs``
    probes a family, and over the originals once.

    Raises:
        UserError: the view has no probes.

    """
    probes = required(view.probes, "flip contribution")
    families = _some(view, probes.families, pairs)
    rows = sorted({row for family in families for row in family.rows})
    found: list[Flips] = []
    with _frozen(view.anatomy), view.progress.task("tracing flips", 1 + len(families)) as tick:
        margins, pulls = _margin_gradients(view, view.train.take(rows))
        tick(1, "originals")
        place = {row: i for i, row in enumerate(rows)}
        for family in families:
            own = [place[row] for row in family.rows]
            found += _flips_of(view, family, margins[own], pulls[own])
            tick(1, family.name)
    return found


def _some(view: DefenderView, families: Sequence[Family], pairs: int | None) -> list[Family]:
    """Return of each family at most so many pairs, of the same texts as far as they go."""
    generator = view.generator("flip-sample")
    rank = torch.randperm(len(view.train), generator=generator).tolist()
    found = []
    for family in families:
        order = sorted(range(len(family.rows)), key=lambda i: rank[family.rows[i]])
        found.append(family.take(sorted(order[:pairs])))
    return found


def _flips_of(
    view: DefenderView, family: Family, clean_margins: Tensor, clean_pulls: Tensor
) -> list[Flips]:
    margins, pulls = _margin_gradients(view, family.probes)
    truth, classes = torch.tensor(family.clean.labels), margins.shape[1]
    rates, parts = [], []
    for label in range(classes):
        others = truth != label
        open_to = others & (clean_margins[:, label] <= 0)
        flipped = (margins[open_to, label] > 0).float()
        rates.append(float(flipped.mean()) if len(flipped) else 0.0)
        difference = (pulls[others, label] - clean_pulls[others, label]).mean(0)
        parts.append(difference / difference.std().clamp_min(1e-12))
    total = sum(rates)
    return [
        Flips(family.name, label, rate, (total - rate) / max(1, classes - 1), part)
        for label, (rate, part) in enumerate(zip(rates, parts, strict=True))
    ]


def _margin_gradients(view: DefenderView, encoded: Encoded) -> tuple[Tensor, Tensor]:
    """Return margins, [example, label], and their gate gradients, [example, label, unit]."""
    anatomy, classes = view.anatomy, int(view.anatomy.model.config.num_labels or 0)
    margins = torch.zeros(len(encoded), classes)
    pulls = torch.zeros(len(encoded), classes, anatomy.layout.units)
    for batch in _batches(view, encoded):
        values = torch.ones(len(batch.labels), anatomy.layout.units, device=anatomy.model.device)
        values.requires_grad_()
        with gates(anatomy, values):
            found = forward(anatomy.model, batch)
        for label in range(classes) if classes > 2 else (1,):
            own = torch.arange(classes, device=found.device) == label
            margin = found[:, label] - found.masked_fill(own, -torch.inf).amax(-1)
            (pull,) = torch.autograd.grad(margin.sum(), values, retain_graph=label < classes - 1)
            margins[batch.index, label] = margin.detach().cpu()
            pulls[batch.index, label] = pull.cpu()
    if classes == 2:  # the margins of two labels are each other's negative
        margins[:, 0], pulls[:, 0] = -margins[:, 1], -pulls[:, 1]
    return margins, pulls


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
