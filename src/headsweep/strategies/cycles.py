"""Prune-heal cycles: a few heads, a little healing, a new look, until nothing gets better.

``probe-guided`` ranks once, on the suspect. But what a head does changes with what is left: once
the first heads of a backdoor are gone, others may take over, and healing moves them again. So here
each cycle scores the model as it is now, prunes ``step`` heads, heals for ``epochs``, and measures
accuracy on validation texts and flips on their probes (which no healing has seen). It ends when
neither the flips nor accuracy have improved for ``patience`` cycles; what counts is the cycle
with the fewest flips among those that keep min accuracy, accuracy where they tie.

The choice carries the weights of that cycle, and the pipeline goes on from them. Its own healing
follows, if any.

Source: own. Iterative pruning with training between is old (Han et al. 2015); the stopping rule
and the score are ours.
Cost: a cycle is a scoring as in ``probe-guided``, ``epochs`` of training, and a pass over the
validation texts and their probes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from headsweep.errors import UserError
from headsweep.heads import Anatomy, remove
from headsweep.healing import FineTune, On
from headsweep.probes import flip_rates, required, worst_flips
from headsweep.search import Choice, Step, candidates, default_step
from headsweep.strategies.probe_guided import ProbeGuided, guided_scores
from headsweep.view import DefenderView

LEAST_GAIN = 0.002  # of flips or accuracy: less is no improvement


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

    def take(self, flips: float, accuracy: float) -> bool:
        """Count whether this cycle improved; return whether it is the one to keep."""
        better = flips < self.flips - LEAST_GAIN
        self.stale = 0 if better or accuracy > self.highest + LEAST_GAIN else self.stale + 1
        self.highest = max(self.highest, accuracy)
        keep = better or (flips <= self.flips and accuracy > self.accuracy)
        if keep:
            self.flips, self.accuracy = flips, accuracy
        return keep


@dataclass(frozen=True)
class Cycles:
    """Prune a few heads that carry the flips of probes, heal, look again.

    Attributes:
        step: heads a cycle; None: half the step of the other strategies.
        epochs: of healing a cycle.
        lr: its learning rate.
        on: what it heals on, ``clean`` or ``probes``.
        consistency: weight of the divergence between probe and text in healing.
        patience: cycles without improvement before it ends.
        most: cycles at most.
        weight: how much the flips count against clean importance.
        examples: training examples scored for clean importance at most.
        probed: pairs of text and probe a family at most.

    """

    name: ClassVar[str] = "cycles"
    source: ClassVar[str] = "of this project; iterative pruning as in Han et al. 2015"
    needs_probes: ClassVar[bool] = True
    heals: ClassVar[bool] = True
    step: int | None = None
    epochs: float = 0.5
    lr: float = 3e-5
    on: On = "probes"
    consistency: float = 0.0
    patience: int = 2
    most: int = 15
    weight: float = 0.7
    examples: int | None = 1000
    probed: int | None = 200

    def __post_init__(self) -> None:
        if (self.step is not None and self.step < 1) or min(self.patience, self.most) < 1:
            raise UserError("cycles: step, patience and most are at least 1")
        FineTune(self.epochs, self.lr, self.on, consistency=self.consistency)
        ProbeGuided(self.weight, probed=self.probed)

    def choose(self, view: DefenderView) -> Choice:
        """Return the best cycle's mask with its weights.

        Raises:
            UserError: the view has no probes of training or of validation texts.

        """
        required(view.probes, "cycles")
        if view.probe_validation is None:
            raise UserError(
                f"cycles is judged by probes of the validation texts, and of these "
                f"{len(view.validation)} none can be made",
                "give more with --validation, or take --strategy probe-guided",
            )
        best, steps, record = _Best(), [], []
        with view.scratch() as anatomy:
            gone: list[int] = []
            for number in range(self.most):
                now = replace(view, seed=view.subseed("cycle", number))
                group, scores = self._group(now, gone)
                if not group:
                    break
                gone = [*gone, *group]
                self._heal(now, gone)
                step, flips = _judged(now, group, gone)
                steps.append(step)
                record.append({"pruned": len(gone), "accuracy": step.measured.low, "flips": flips})
                view.progress.say(
                    f"cycle {number + 1}: {len(gone)} pruned, accuracy {step.measured.low:.4f}, "
                    f"flips of probes {flips:.3f}"
                )
                if not step.held:
                    best.stale += 1
                elif best.take(flips, step.measured.low):
                    best.gone, best.scores, best.weights = gone, scores, _copied(anatomy)
                if best.stale >= self.patience:
                    break
        return Choice(
            view.layout.mask(best.gone),
            best.scores,
            tuple(steps),
            {"cycles": record, "flips": None if best.weights is None else best.flips},
            weights=best.weights,
        )

    def _group(self, view: DefenderView, gone: list[int]) -> tuple[list[int], Tensor]:
        """Return the next heads to go and the scores, those gone already lowest."""
        scores, _ = guided_scores(view, self.weight, self.examples, self.probed)
        scores[gone] = scores.min() - 1
        size = self.step or max(1, default_step(view.layout.units) // 2)
        order = [unit for unit in candidates(scores, view.layout) if unit not in gone]
        return order[:size], scores

    def _heal(self, view: DefenderView, gone: list[int]) -> None:
        mask = view.layout.mask(gone)
        remove(view.anatomy, mask)
        healing = FineTune(self.epochs, self.lr, self.on, consistency=self.consistency)
        healing.heal(view, Choice(mask))


def _judged(view: DefenderView, group: list[int], gone: list[int]) -> tuple[Step, float]:
    """Return the cycle as a step with its exact accuracy, and the flips of held-out probes."""
    measured = view.meter.accuracy(view.layout.everything())  # the heads are zero already
    step = Step("prune", tuple(group), len(gone), measured, bool(measured.holds(view.need)))
    held: Any = view.probe_validation
    return step, worst_flips(flip_rates(view.anatomy, held, view.runtime))


def _copied(anatomy: Anatomy) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in anatomy.model.state_dict().items()}
