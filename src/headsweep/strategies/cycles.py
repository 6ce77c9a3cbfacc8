"""Prune-heal cycles: a few heads, a little healing, a new look, until accuracy is lost.

The other strategies choose all heads on the suspect as it is, and healing comes once, at the end.
But what a head does changes with what is left, and a model that heals between the steps gives up
more heads for the same accuracy: gradual pruning. So each cycle scores the model as it is now,
prunes ``step`` heads, heals for ``epochs`` and measures validation accuracy.

``rank``
    ``importance``: by the clean score of ``gradient``. ``probes``: by the score of
    ``probe-guided``. ``variance``: by PURE's. ``random``: the control.
``keep``
    ``deepest``: the last cycle that held min accuracy; it ends when ``patience`` cycles in a row
    did not. ``fewest-flips``: of those that held it, the cycle with the fewest flips of validation
    probes (which no healing has seen), accuracy where they tie; it ends when neither flips nor
    accuracy have improved for ``patience`` cycles.

Where no cycle held, it begins anew with half as many heads a cycle.
``importance`` and ``deepest`` are the defaults: depth is what removed backdoors; and healing with
PURE's attention penalty, without which triggers that are tokens stay (docs/guided.md).
``distill`` lets it prune deeper at the same accuracy, which did not remove more.

The choice carries the weights of that cycle, and the pipeline goes on from them. Its own healing
follows, if any.

Source: own. Iterative pruning with training between is old (Han et al. 2015); the bound, the
stopping rules and the scores are ours.
Cost: a cycle is a scoring as in ``gradient`` or ``probe-guided``, ``epochs`` of training, and a
pass over the validation texts (and their probes, for ``fewest-flips``); with ``distill`` a pass
over the training texts before the first, at most 20,000.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import torch
import transformers
from torch import Tensor

from headsweep.checkpoint import Checkpoint, digest
from headsweep.distillation import asked, taught
from headsweep.errors import UserError
from headsweep.heads import HeadMask, remove
from headsweep.healing import FineTune, On
from headsweep.importance import attention_variance, gate_importance
from headsweep.normalisation import PENALTY
from headsweep.predict import Measured
from headsweep.probes import flip_rates, required, worst_flips
from headsweep.scorecache import content_hash
from headsweep.search import Choice, Step, candidates
from headsweep.settings import describe
from headsweep.strategies.probe_guided import ProbeGuided, guided_scores
from headsweep.training import copied, round_weights
from headsweep.view import DefenderView

Rank = Literal["importance", "probes", "variance", "random"]
Keep = Literal["deepest", "fewest-flips"]
LEAST_GAIN = 0.002  # of flips or accuracy: less is no improvement
SHARE = 12  # a cycle prunes one of so many units
TEXTS, MOST_EPOCHS = 2000, 2.0  # what a cycle heals on


@dataclass
class _State:
    """How far it has come, and the cycle to return."""

    size: int  # heads a cycle
    gone: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    record: list[dict[str, Any]] = field(default_factory=list)
    stale: int = 0
    highest: float = 0.0  # accuracy of any cycle so far
    flips: float | None = None  # from here on: of the cycle to return
    accuracy: float = 0.0
    pruned: list[int] = field(default_factory=list)
    weights: dict[str, Tensor] | None = None
    scores: Tensor | None = None

    def counts(self) -> bool:
        """Count the last cycle; return whether it is the one to return."""
        last = self.record[-1]
        if not self.steps[-1].held:
            self.stale += 1
            return False
        accuracy, flips = last["accuracy"], last.get("flips")
        most = math.inf if self.flips is None else self.flips
        better = flips is None or flips < most - LEAST_GAIN
        self.stale = 0 if better or accuracy > self.highest + LEAST_GAIN else self.stale + 1
        self.highest = max(self.highest, accuracy)
        if not better and not (flips is not None and flips <= most and accuracy > self.accuracy):
            return False
        self.flips, self.accuracy, self.pruned = flips, accuracy, list(self.gone)
        return True

    def keep(self, checkpoint: Checkpoint, key: str, now: dict[str, Tensor]) -> None:
        """Write it to a file, with the weights as they are now."""
        tensors = {f"now.{name}": tensor for name, tensor in now.items()}
        if self.weights is not None and self.scores is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in self.weights.items()}
            tensors["scores"] = self.scores
        values = {name: getattr(self, name) for name in VALUES}
        steps = [asdict(step) for step in self.steps]
        checkpoint.save(key, values | {"steps": steps}, tensors)

    @staticmethod
    def taken_up(values: dict[str, Any], tensors: dict[str, Tensor]) -> _State:
        """Return what ``keep`` has written."""
        steps = [
            Step(**one | {"units": tuple(one["units"]), "measured": Measured(**one["measured"])})
            for one in values.pop("steps")
        ]
        best = {n.removeprefix("best."): x for n, x in tensors.items() if n.startswith("best.")}
        return _State(steps=steps, weights=best or None, scores=tensors.get("scores"), **values)


VALUES = ("size", "gone", "record", "stale", "highest", "flips", "accuracy", "pruned")


@dataclass(frozen=True)
class Cycles:
    """Prune a few heads, heal a little, look again.

    Attributes:
        step: heads a cycle; None: a twelfth of all.
        epochs: of healing a cycle; None: as many as pass 2,000 texts, at most 2.
        lr: its learning rate.
        on: what it heals on, ``clean`` or ``probes``.
        consistency: weight of the divergence between probe and text in healing.
        attention: weight of PURE's attention penalty in healing (``normalisation``); 0: none.
        distill: how much of its loss is that of the suspect's own predictions
            (``distillation``), 0 to 1.
        rank: which heads go: ``importance``, ``probes``, ``variance`` or ``random`` (module
            docstring).
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
    attention: float = PENALTY
    distill: float = 0.0
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
        heal = 3.5 * self.healed(units, train)
        heal += asked(train) if self.distill else 0
        return heal + self._cycles(units) * (3 * scored + validation + held)

    def healed(self, units: int, train: int) -> float:
        """Return how many texts pass through all cycles' healing, at most."""
        return self._cycles(units) * self._healing(train).epochs * train

    def _cycles(self, units: int) -> int:
        return min(self.most, -(-units // self._size(units)))

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
        said = view.taught
        state, key = _State(self._size(view.layout.units)), ""
        with view.scratch() as anatomy:
            first = copied(anatomy.model)
            if view.kept is not None:
                key = self._key(view)
                state = _taken_up(view, view.kept, key) or state
            while len(state.steps) < self.most:
                if state.stale >= self.patience:
                    if state.pruned or state.size == 1:
                        break
                    anatomy.model.load_state_dict(first)  # begin anew, with fewer a cycle
                    state.size, state.gone, state.stale = state.size // 2, [], 0
                if self.distill and said is None:
                    said = _said(view, first)
                seed = view.subseed("cycle", len(state.steps))
                now = replace(view, seed=seed, taught=said)
                group, scores = self._group(view, now, state.gone, state.size)
                if not group:
                    break
                state.gone += group
                mask = view.layout.mask(state.gone)
                remove(anatomy, mask)
                self._healing(len(view.train)).heal(now, Choice(mask))
                round_weights(anatomy.model, view.precision)
                state.steps.append(_judged(now, group, mask))
                view.meter.examples_run += now.meter.examples_run
                view.meter.masks_run += now.meter.masks_run
                accuracy = state.steps[-1].measured.low
                state.record.append({"pruned": len(state.gone), "accuracy": accuracy})
                state.record[-1] |= self._flips(now)
                _tell(view, state.record)
                if state.counts():
                    state.scores, state.weights = scores, copied(anatomy.model)
                if view.kept is not None:
                    state.keep(view.kept, key, copied(anatomy.model))
        flips = {"flips": state.flips} if self.keep == "fewest-flips" else {}
        return Choice(
            view.layout.mask(state.pruned),
            state.scores,
            tuple(state.steps),
            {"cycles": state.record} | flips,
            weights=state.weights,
        )

    def _key(self, view: DefenderView) -> str:
        """Return a hash of all that decides the choice."""
        texts = [view.train.sha256, view.validation.sha256]
        runtime, units = asdict(view.runtime), [asdict(row) for row in view.layout.rows]
        made = [p for p in (view.probes, view.probe_validation) if p is not None]
        texts += [family.probes.sha256 for probes in made for family in probes.families]
        asked = [describe(self), texts, view.seed, view.need, runtime, units]
        versions = [torch.__version__, transformers.__version__]
        return digest([*asked, *versions, content_hash(view.anatomy.model)])

    def _group(
        self, view: DefenderView, now: DefenderView, gone: list[int], size: int
    ) -> tuple[list[int], Tensor]:
        """Return the next heads to go, and the scores; a head that has gone has importance 0."""
        if self.rank == "probes":
            scores, _ = guided_scores(now, self.weight, self.examples, self.probed)
        elif self.rank == "variance":
            scores = attention_variance(now, self.examples)
        elif self.rank == "random":
            scores = torch.rand(view.layout.units, generator=view.generator("cycles"))
        else:
            scores = gate_importance(now, self.examples)
        places = torch.tensor(gone, dtype=torch.long)
        left = scores.index_fill(0, places, scores.min() - 1)  # none of them its layer's best
        order = [unit for unit in candidates(left, view.layout) if unit not in gone]
        return order[:size], scores

    def _size(self, units: int) -> int:
        return self.step or max(1, units // SHARE)

    def _healing(self, examples: int) -> FineTune:
        epochs = self.epochs
        if epochs is None:
            epochs = min(MOST_EPOCHS, TEXTS / max(1, examples))
        return FineTune(
            epochs,
            self.lr,
            self.on,
            consistency=self.consistency,
            attention=self.attention,
            distill=self.distill,
        )

    def _flips(self, view: DefenderView) -> dict[str, Any]:
        """Return the flips of held-out probes, where they decide."""
        if self.keep != "fewest-flips":
            return {}
        held: Any = view.probe_validation
        return {"flips": worst_flips(flip_rates(view.anatomy, held, view.runtime))}


def _said(view: DefenderView, first: dict[str, Tensor]) -> Tensor:
    """Return what the model says of the training texts with its first weights."""
    model = view.anatomy.model
    now = copied(view.anatomy.model)
    model.load_state_dict(first)
    found = taught(view)
    model.load_state_dict(now)
    return found


def _taken_up(view: DefenderView, kept: Checkpoint, key: str) -> _State | None:
    """Return the state that was kept, with the model's weights as of then; None if none was."""
    found = kept.load(key)
    if found is None:
        return None
    values, tensors = found
    now = {n.removeprefix("now."): x for n, x in tensors.items() if n.startswith("now.")}
    view.anatomy.model.load_state_dict(now)
    state = _State.taken_up(values, tensors)
    view.progress.say(f"going on after cycle {len(state.steps)} of an interrupted run")
    return state


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
