"""Which units carry the flips of probes: a signed score, on clean texts and probes made of them.

Source: own; the gate gradient is Michel et al. 2019's, with its sign, and of the flip instead of
the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headsweep.measure.accuracy import logits
from headsweep.model.anatomy import Anatomy
from headsweep.model.borrowing import frozen
from headsweep.model.gates import gates
from headsweep.model.mask import HeadMask
from headsweep.model.runtime import Runtime
from headsweep.progress import Silent
from headsweep.prune.importance import scored
from headsweep.prune.view import DefenderView
from headsweep.task.examples import forward
from headsweep.task.probes import Family, Probes, joined, required
from headsweep.texts.encoded import Batch, Encoded


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
    with frozen(view.anatomy), view.progress.task("tracing flips", 1 + len(families)) as tick:
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
        if not others.any():  # a rare label, and these pairs hold no other
            rates.append(0.0)
            parts.append(torch.zeros(view.layout.units))
            continue
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
    labels = range(classes) if classes > 2 else (1,)

    def traced(batch: Batch) -> Sequence[Tensor]:
        values = torch.ones(len(batch), anatomy.layout.units, device=anatomy.model.device)
        values.requires_grad_()
        with gates(anatomy, values):
            found = forward(anatomy.model, batch)
        told: list[Tensor] = []
        for label in labels:
            own = torch.arange(classes, device=found.device) == label
            margin = found[:, label] - found.masked_fill(own, -torch.inf).amax(-1)
            (pull,) = torch.autograd.grad(margin.sum(), values, retain_graph=label < classes - 1)
            told += [margin.detach(), pull]
        return told

    for parts in scored(replace(view, progress=Silent()), encoded, "tracing flips", traced):
        for part, found in parts:
            for label, margin, pull in zip(labels, found[::2], found[1::2], strict=True):
                margins[part.index, label], pulls[part.index, label] = margin.cpu(), pull.cpu()
    if classes == 2:  # the margins of two labels are each other's negative
        margins[:, 0], pulls[:, 0] = -margins[:, 1], -pulls[:, 1]
    return margins, pulls


def originals(probes: Probes) -> tuple[Encoded, dict[int, int]]:
    """Return the originals of all families, each once, and where each clean row stands."""
    found: dict[int, tuple[Encoded, int]] = {}
    for family in probes.families:
        for place, row in enumerate(family.rows):
            found.setdefault(row, (family.clean, place))
    parts = [source.take([place]) for source, place in found.values()]
    return joined(parts), {row: i for i, row in enumerate(found)}


def flip_rates(
    anatomy: Anatomy, probes: Probes, runtime: Runtime, mask: HeadMask | None = None
) -> dict[str, Tensor]:
    """Return of each family how often probes flip into each label, [label], fractions.

    Counted are the probes with another true label whose original is not answered with this one.
    Cost: one forward pass over the probes, and over the originals once.
    """
    clean, place = originals(probes)
    said = logits(anatomy, clean, runtime, mask).argmax(-1)
    found = {}
    for family in probes.families:
        before = said[[place[row] for row in family.rows]]
        after = logits(anatomy, family.probes, runtime, mask).argmax(-1)
        truth = torch.tensor(family.clean.labels)
        rates = []
        for label in range(int(anatomy.model.config.num_labels or 0)):
            counted = (truth != label) & (before != label)
            rates.append((after[counted] == label).float().mean() if counted.any() else 0.0)
        found[family.name] = torch.tensor([float(rate) for rate in rates])
    return found
