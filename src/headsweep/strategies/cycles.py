"""Prune-heal cycles: a few heads, a little healing, a new look, until accuracy is lost.

The other strategies choose all heads on the suspect as it is, and healing comes once, at the end.
But what a head does changes with what is left, and a model that heals between the steps gives up
more heads for the same accuracy: gradual pruning. So each cycle scores the model as it is now,
prunes ``step`` heads, heals for ``epochs`` and measures validation accuracy.

``rank``
    ``importance``: by the clean score of ``gradient``. ``probes``: by the score of
    ``probe-guided``. ``random``: the control.
``keep``
    ``deepest``: the last cycle that held min accuracy; it ends when ``patience`` cycles in a row
    did not. ``fewest-flips``: of those that held it, the cycle with the fewest flips of validation
    probes (which no healing has seen), accuracy where they tie; it ends when neither flips nor
    accuracy have improved for ``patience`` cycles.

``importance`` and ``deepest`` are the defaults: depth is what removed backdoors (docs/guided.md).

The choice carries the weights of that cycle, and the pipeline goes on from them. Its own healing
follows, if any.

Source: own. Iterative pruning with training between is old (Han et al. 2015); the bound, the
stopping rules and the scores are ours.
Cost: a cycle is a scoring as in ``gradient`` or ``probe-guided``, ``epochs`` of training, and a
pass over the validation texts (and their probes, for ``fewest-flips``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from headsweep.errors import UserError
from headsweep.heads import Anatomy, HeadMask, remove
from headsweep.healing import FineTune, On
from headsweep.importance import gate_importance
from headsweep.probes import flip_rates, required, worst_flips
from headsweep.search import Choice, Step, candidates
from headsweep.strategies.probe_guided import ProbeGuided, guided_scores
from headsweep.view import DefenderView

Rank = Literal["importance", "probes", "random"]
Keep = Literal["deepest", "fewest-flips"]
LEAST_GAIN = 0.002  # of flips or accuracy: less is no improvement
SHARE = 12  # a cycle prunes one of so many units
TEXTS, MOST_EPOCHS = 2000, 2.0  # what a cycle heals on


@dataclass
class _Best:
    """The cycle to return, and what has been reached on the way."""

    flips: float = float("inf")
    accuracy: float = 0.0
    highest: float = 0.0  # accuracy of any cycle so far
    gone: list[int] = field(default_factory=list)
    weights: dict[str, Tensor] | None = None
    scores: Tensor | None = None
    stale: int = 0

    def deeper(self, accuracy: float) -> bool:
        """Count a cycle that held min accuracy; it is the one to keep."""
        self.stale, self.accuracy = 0, accuracy
        return True

    def fewer(self, flips: float, accuracy: float) -> bool:
        """Count whether a cycle that held improved; return whether it is the one to keep."""
        better = flips < self.flips - LEAST_GAIN
        self.stale = 0 if better or accuracy > self.highest + LEAST_GAIN else self.stale + 1
        self.highest = max(self.highest, accuracy)
        keep = better or (flips <= self.flips and accuracy > self.accuracy)
        if keep:
            self.flips, self.accuracy = flips, accuracy
        return keep


@dataclass(frozen=True)
class Cycles:
    """Prune a few heads, heal a little, look again.

    Attributes:
        step: heads a cycle; None: a twelfth of all.
        epochs: of healing a cycle; None: as many as pass 2,000 texts, at most 2.
        lr: its learning rate.
        on: what it heals on, ``clean`` or ``probes``.
        consistency: weight of the divergence between probe and text in healing.
        rank: which heads go: ``importance``, ``probes`` or ``random`` (module docstring).
        keep: which cycle counts: ``deepest`` or ``fewest-flips``.
        patience: cycles without success before it ends.
        most: cycles at most.
        weight: with ``rank=probes``, how much the flips count against clean importance.
        examples: training examples scored for clean importance at most.
        probed: with ``rank=probes``, pairs of text and probe a family at most.

    """

    name: ClassVar[str] = "cycles"
    source: ClassVar[str] = "of this project; iterative pruning as in Han et al. 2015"
    heals: ClassVar[bool] = True
    step: int | None = None
    epochs: float | None = None
    lr: float = 5e-5
    on: On = "clean"
    consistency: float = 0.0
    rank: Rank = "importance"
    keep: Keep = "deepest"
    patience: int = 2
    most: int = 30
    weight: float = 0.7
    examples: int | None = 500
    probed: int | None = 200

    def __post_init__(self) -> None:
        if (self.step is not None and self.step < 1) or min(self.patience, self.most) < 1:
            raise UserError("cycles: step, patience and most are at least 1")
        for name, value, known in (("rank", self.rank, Rank), ("keep", self.keep, Keep)):
            if value not in get_args(known):
                raise UserError(
                    f"cycles: unknown {name} '{value}'", f"give one of {', '.join(get_args(known))}"
                )
        self._healing(1)
        ProbeGuided(self.weight, probed=self.probed)

    @property
    def needs_probes(self) -> bool:
        """True when the view must carry probes."""
        return "probes" in (self.on, self.rank) or self.keep == "fewest-flips"

    def work(self, units: int, train: int, validation: int, families: int) -> float:
        """Return about how much it has to compute, in forward passes of one text.

        Args:
            units: of the model.
            train: training texts.
            validation: validation texts.
            families: probe families, where it has probes.

        """
        scored = min(self.examples or train, train)
        if self.rank == "probes":
            scored += families * min(self.probed or train, train)
        held = families * validation if self.keep == "fewest-flips" else 0
        cycles = min(self.most, -(-units // self._size(units)))
        heal = 3.5 * self._healing(train).epochs * train
        return cycles * (3 * scored + heal + validation + held)

    def choose(self, view: DefenderView) -> Choice:
        """Return the kept cycle's mask with its weights.

        Raises:
            UserError: the view has no probes, of training or of validation texts, and needs them.

        """
        if self.needs_probes:
            required(view.probes, "cycles")
        if self.keep == "fewest-flips" and view.probe_validation is None:
            raise UserError(
                f"cycles is judged by probes of the validation texts, and of these "
                f"{len(view.validation)} none can be made",
                "give more with --validation, or leave out keep=fewest-flips",
            )
        best, steps, record = _Best(), [], []
        with view.scratch() as anatomy:
            gone: list[int] = []
            for number in range(self.most):
                now = replace(view, seed=view.subseed("cycle", number))
                group, scores = self._group(view, now, gone)
                if not group:
                    break
                gone = [*gone, *group]
                mask = view.layout.mask(gone)
                remove(anatomy, mask)
                self._healing(len(view.train)).heal(now, Choice(mask))
                steps.append(_judged(now, group, mask))
                flips = self._flips(now)
                record.append({"pruned": len(gone), "accuracy": steps[-1].measured.low} | flips)
                _tell(view, record)
                if not steps[-1].held:
                    best.stale += 1
                elif (
                    best.fewer(flips["flips"], record[-1]["accuracy"])
                    if flips
                    else best.deeper(record[-1]["accuracy"])
                ):
                    best.gone, best.scores, best.weights = gone, scores, _copied(anatomy)
                if best.stale >= self.patience:
                    break
        kept = None if best.weights is None else best.flips
        return Choice(
            view.layout.mask(best.gone),
            best.scores,
            tuple(steps),
            {"cycles": record} | ({"flips": kept} if self.keep == "fewest-flips" else {}),
            weights=best.weights,
        )

    def _group(
        self, view: DefenderView, now: DefenderView, gone: list[int]
    ) -> tuple[list[int], Tensor]:
        """Return the next heads to go and the scores, those gone already lowest."""
        if self.rank == "probes":
            scores, _ = guided_scores(now, self.weight, self.examples, self.probed)
        elif self.rank == "random":
            scores = torch.rand(view.layout.units, generator=view.generator("cycles"))
        else:
            scores = gate_importance(now, self.examples)
        scores = scores.index_fill(0, torch.tensor(gone, dtype=torch.long), scores.min() - 1)
        order = [unit for unit in candidates(scores, view.layout) if unit not in gone]
        return order[: self._size(view.layout.units)], scores

    def _size(self, units: int) -> int:
        return self.step or max(1, units // SHARE)

    def _healing(self, examples: int) -> FineTune:
        epochs = self.epochs
        if epochs is None:
            epochs = min(MOST_EPOCHS, TEXTS / max(1, examples))
        return FineTune(epochs, self.lr, self.on, consistency=self.consistency)

    def _flips(self, view: DefenderView) -> dict[str, Any]:
        """Return the flips of held-out probes, where they decide."""
        if self.keep != "fewest-flips":
            return {}
        held: Any = view.probe_validation
        return {"flips": worst_flips(flip_rates(view.anatomy, held, view.runtime))}


def _judged(view: DefenderView, group: list[int], mask: HeadMask) -> Step:
    """Return the cycle as a step with its exact accuracy."""
    measured = view.meter.accuracy(mask)  # the heads are zero already
    held = bool(measured.holds(view.need))
    return Step("prune", tuple(group), len(mask.pruned), measured, held)


def _tell(view: DefenderView, record: list[dict[str, Any]]) -> None:
    last = record[-1]
    flips = f", flips of probes {last['flips']:.3f}" if "flips" in last else ""
    view.progress.say(
        f"cycle {len(record)}: {last['pruned']} pruned, accuracy {last['accuracy']:.4f}"
        f" (min {view.min_accuracy:.4f}){flips}"
    )


def _copied(anatomy: Anatomy) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in anatomy.model.state_dict().items()}
