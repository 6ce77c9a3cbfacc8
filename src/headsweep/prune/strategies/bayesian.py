"""Bayesian uncertainty: how much a head's output varies when dropout is drawn again.

Source: Chapagain et al. 2025, Bayesian uncertainty pruning, with Monte Carlo dropout as in Gal
& Ghahramani 2016: T passes with dropout on. The score of a head is, per example, the variance
across passes of its output (its slice at the output projection, summed over width and real
tokens) relative to the squared norm of its mean output; then the mean over examples. Attention
weights would not do: eager attention returns them after dropout, so their variance is that of
the dropout masks.

``prune`` says which end goes: ``uncertain`` (high relative variance first, that is, low signal to
noise; the default) or ``certain``. The paper leaves it open. Decided on the validation part of two
backdoored models' triggered texts, where the uncertain end left less excess LFR on average and
the certain end was better on one of the two (docs/log.md), and because a head that is silent on
clean text is found at the uncertain end only (tests/test_oracle.py).

``rate``: dropout applied to the input of every layer, for models that are configured without
dropout (Llama, Qwen, Mistral, Gemma) or instead of their own.
Cost: ``passes`` forward passes over ``examples``, then as the greedy loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from headsweep.errors import UserError, lookup
from headsweep.model.anatomy import Anatomy, layers_of
from headsweep.model.borrowing import by_text, evaluating, uncached, unit_outputs
from headsweep.model.padding import probe_inputs
from headsweep.prune.choice import Choice, Needs
from headsweep.prune.importance import sample, scored
from headsweep.prune.search import SEARCHES
from headsweep.prune.view import DefenderView
from headsweep.seeding import fence
from headsweep.settings import checked
from headsweep.task.examples import forward
from headsweep.texts.encoded import Batch

LAYER_DROP = "layerdrop"  # as the modules of transformers call the share of layers left out


@dataclass(frozen=True)
@checked
class Bayesian:
    """Rank heads by the uncertainty of their output under dropout, then prune greedily.

    Attributes:
        passes: Monte Carlo passes.
        prune: which end goes first, ``uncertain`` or ``certain``.
        rate: dropout at every layer's input; None: the model's own dropout.
        step: heads dropped per trial; None: 10 or a seventh of all, whichever is less.
        examples: training examples scored at most.
        search: ``bisect``, or ``step``, the loop of the papers (``search``).

    """

    name: ClassVar[str] = "bayesian"
    source: ClassVar[str] = "Chapagain et al. 2025; Gal & Ghahramani 2016"
    needs: ClassVar[Needs] = Needs()
    passes: int = 10
    prune: Literal["uncertain", "certain"] = "uncertain"
    rate: float | None = None
    step: PositiveInt | None = None
    examples: PositiveInt | None = 500
    search: Literal["bisect", "step"] = "bisect"

    def __post_init__(self) -> None:
        if self.passes < 2:
            raise UserError("bayesian: a variance needs at least 2 passes")
        if self.rate is not None and not 0 < self.rate < 1:
            raise UserError(f"bayesian: a dropout rate of {self.rate}", "it is between 0 and 1")

    def choose(self, view: DefenderView) -> Choice:
        """Return the mask found by greedy pruning on uncertainty."""
        uncertainty = self.uncertainty(view)
        scores = uncertainty if self.prune == "certain" else -uncertainty
        return lookup(self.search, SEARCHES, "search")(view, scores, self.step)

    def uncertainty(self, view: DefenderView) -> Tensor:
        """Return the relative variance of every unit's output across passes, [unit]."""
        anatomy, encoded = view.anatomy, sample(view, self.examples)
        total = torch.zeros(anatomy.layout.units)
        with (
            fence(view.subseed("bayesian")),
            torch.inference_mode(),
            dropping(anatomy, self.rate),
        ):

            def spread(batch: Batch) -> Sequence[Tensor]:
                return [_relative_variance(anatomy, batch, self.passes).sum(0)]

            for parts in scored(view, encoded, "dropout passes", spread):
                for _, (found,) in parts:
                    total += found
        return total / len(encoded)


def _relative_variance(anatomy: Anatomy, batch: Batch, passes: int) -> Tensor:
    """Return [batch, unit]: the variance summed over a unit's numbers, over their squared mean.

    A key/value group's numbers are those of all its query heads, and where layers share weights
    (ALBERT) those of all layers. A unit whose output is always zero has none.
    """
    owners: list[int] = []  # the site that each belongs to
    means: list[Tensor] = []
    squares: list[Tensor] = []  # of differences from the mean so far
    with unit_outputs(anatomy) as found:
        for number in range(passes):
            forward(anatomy.model, batch)
            if number == 0:
                owners = [place for place, layers in enumerate(found) for _ in layers]
                means = [by_text(x, batch).float().clone() for x in chain(*found)]
                squares = [torch.zeros_like(mean) for mean in means]
            for mean, square, x in zip(means, squares, chain(*found), strict=True):
                now = by_text(x, batch)
                gap = now - mean
                mean += gap / (number + 1)
                square += gap * (now - mean)
    real = batch.inputs["attention_mask"].unsqueeze(-1)
    sums: dict[int, tuple[Tensor, Tensor]] = {}
    for place, mean, square in zip(owners, means, squares, strict=True):
        real = real.to(mean.device)  # layers may lie on several devices
        variance = square / passes * real
        shape = (anatomy.sites[place].row.units, anatomy.sites[place].row.width)
        spread = variance.sum(1).unflatten(-1, shape).sum(-1).cpu()
        strength = (mean**2 * real).sum(1).unflatten(-1, shape).sum(-1).cpu()
        first = sums.get(place)
        sums[place] = (
            (spread, strength) if first is None else (first[0] + spread, first[1] + strength)
        )
    rows = [
        torch.where(strength <= 1e-20, 0.0, spread / strength.clamp_min(1e-20))
        for spread, strength in sums.values()
    ]
    return torch.cat(rows, dim=-1)


@contextmanager
def dropping(anatomy: Anatomy, rate: float | None) -> Iterator[None]:
    """Switch dropout on inside: the model's own, or ``rate`` at every layer's input.

    Raises:
        UserError: no rate was given and the model is configured without dropout.

    """
    model = anatomy.model
    if rate is None:
        if not _has_dropout(anatomy):
            raise UserError(
                f"{type(model).__name__} is configured without dropout, so every pass is the same",
                "give a rate: --set rate=0.1",
            )
        with evaluating(anatomy, training=True), _every_layer(anatomy):
            yield
        return

    def drop(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = args
        return (nn.functional.dropout(x, rate), *rest)

    with evaluating(anatomy), ExitStack() as stack:
        for layer in layers_of(anatomy):
            stack.callback(layer.register_forward_pre_hook(drop).remove)
        yield


@contextmanager
def _every_layer(anatomy: Anatomy) -> Iterator[None]:
    """Let no layer be left out at random (LayerDrop: BART, OPT, Flaubert)."""
    modules = [
        m for m in anatomy.model.modules() if isinstance(getattr(m, LAYER_DROP, None), float)
    ]
    before = [getattr(module, LAYER_DROP) for module in modules]
    try:
        for module in modules:
            setattr(module, LAYER_DROP, 0.0)
        yield
    finally:
        for module, share in zip(modules, before, strict=True):
            setattr(module, LAYER_DROP, share)


def _has_dropout(anatomy: Anatomy) -> bool:
    """Tell whether two passes differ in what enters a gate while the model trains."""
    model, inputs = anatomy.model, probe_inputs(anatomy.model)
    with (
        evaluating(anatomy, training=True),
        _every_layer(anatomy),
        fence(0),
        torch.no_grad(),
        unit_outputs(anatomy) as found,
    ):
        model(**inputs, **uncached(model))
        first = [x.clone() for x in chain(*found)]
        model(**inputs, **uncached(model))
        return not all(torch.equal(a, b) for a, b in zip(first, chain(*found), strict=True))
