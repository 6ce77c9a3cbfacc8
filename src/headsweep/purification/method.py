"""All that is done to a suspect: which heads go, what heals it, what may be pruned, the bound.

A baseline is a method too, and so are nothing pruned and a mask that was given: nobody asks what
a method is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from headsweep.errors import UserError
from headsweep.heal.attention_penalty import PENALTY
from headsweep.heal.fine_tune import FineTune, Healing
from headsweep.measure.accuracy import Accuracy
from headsweep.model.mask import HEADS, Units
from headsweep.prune.strategies import Strategy
from headsweep.prune.strategies.gradient import Gradient
from headsweep.prune.strategies.nothing import Nothing
from headsweep.purification.bound import Allowance, Bound
from headsweep.settings import able, checked
from headsweep.texts.words import CLASSIFICATION, GENERATION

HOT = FineTune(epochs=4, lr=2e-4, attention=PENALTY, halvings=3, members=3, beyond=2.0)
"""The usual healing of a classifier: a soup, as hot as the bound allows (docs/decisions/0013)."""
ALONE = replace(HOT, lr=3e-4)
"""The same where nothing is pruned, which leaves healing the whole bound: hotter."""
PAPER = FineTune(epochs=3, lr=2e-5)
"""The paper's healing, usual where the start is the encoder."""
ONE_PASS = FineTune(epochs=1, lr=5e-4, halvings=3, members=3, beyond=1.5, batch=8, unlearn=1.0)
"""The usual healing of a generator: hotter, once over the prompts (docs/decisions/0015, 0016)."""


@dataclass(frozen=True)
class Usual:
    """What is done where nobody says.

    Attributes:
        strategy: how heads are chosen.
        pruned: how a suspect is healed of which heads were pruned.
        alone: how it is healed where none were.

    """

    strategy: Strategy = Gradient()
    pruned: Healing = HOT
    alone: Healing = ALONE

    def healing(self, prunes: bool) -> Healing:
        """Return how a suspect is healed, after pruning or without."""
        return self.pruned if prunes else self.alone


GENERATOR = Usual(Nothing(), ONE_PASS, ONE_PASS)
"""Pruning first left more of a backdoor than healing alone (docs/generators.md)."""
FROM_ENCODER = Usual(pruned=PAPER, alone=PAPER)


def usual(task: str = CLASSIFICATION.task, start: str = "classifier") -> Usual:
    """Return what is usual for a task by its name, and for what the suspect is taken for."""
    if start == "encoder":
        return FROM_ENCODER
    return GENERATOR if task == GENERATION.task else Usual()


@dataclass(frozen=True)
@checked
class Method:
    """What is done to a suspect.

    Attributes:
        pruning: how heads are chosen.
        healing: how the pruned model is fine-tuned; unless it is given, as is usual of a
            classifier, since a method does not know the suspect: a generator wants another, which
            ``headsweep.purify`` takes where it is given a strategy in the place of a method.
        units: what a search may prune: heads, FFN groups, or both. A mask that is given says
            itself which units it holds (``gated``).
        bound: how much accuracy it may cost; None: a baseline that nothing bounds.

    Raises:
        UserError: parts that do not go together.

    """

    pruning: Strategy = Gradient()
    healing: Healing = HOT
    units: Units = HEADS
    bound: Bound | None = Bound()

    def __post_init__(self) -> None:
        able(self.pruning, "choose", "Method: pruning", "an object such as Gradient()")
        able(self.healing, "heal", "Method: healing", "an object such as FineTune()")
        if self.bound is None or self.bound.prune_drop is None:
            return
        if not self.pruning.needs.pruning:
            raise UserError("prune_drop is for pruning, and nothing is pruned", "leave it out")
        if self.bound.goes_deeper and not self.healing.trains:
            raise UserError(
                "prune_drop leaves it to healing to bring accuracy back, and there is none",
                "leave it out, or heal for more than 0 epochs",
            )

    def within(self, bound: Bound) -> Method:
        """Return it held to a bound, where one can hold it."""
        return self if self.bound is None else replace(self, bound=bound)

    @property
    def gated(self) -> Units:
        """The units that get gates: those of a mask that is given, else those of the search."""
        given = self.pruning.needs.mask
        return self.units if given is None else given.units

    @property
    def base(self) -> str | None:
        """The model that healing mixes in, which is trusted; None: there is none."""
        found: str | None = getattr(self.healing, "base", None)  # a healing of one's own has none
        return found

    @property
    def unlearns(self) -> bool:
        """True where healing can unlearn answers that a generator has by heart."""
        own = self.healing
        return isinstance(own, FineTune) and own.trains and own.unlearn > 0

    def knowing(self, answers: int) -> Method:
        """Return it as it heals a generator that has so many answers by heart."""
        own = self.healing
        return replace(self, healing=own.knowing(answers)) if isinstance(own, FineTune) else self

    def notes_for(self, task: str) -> list[str]:
        """Return a note where it heals as is usual of a classifier, and that is unusual here."""
        if self.healing != HOT or usual(task).pruned == HOT:
            return []
        return [
            f"this model for {task} is healed as is usual of a classifier, which a Method does "
            "unless healing is given: headsweep.purify with strategy in the place of method heals "
            f"as is usual of {task}"
        ]

    @property
    def does_nothing(self) -> bool:
        """True for the control that leaves a suspect as it is."""
        return not (self.pruning.needs.pruning or self.healing.trains)

    @property
    def frozen(self) -> bool:
        """True where nothing trains the suspect's weights, nor takes their gradients."""
        return self.healing.frozen and not self.pruning.needs.weights

    @property
    def binds(self) -> bool:
        """True when a bound on accuracy holds it: its pruning, or a healing that can cool."""
        held = self.pruning.needs.bound or self.healing.tries > 0
        return self.bound is not None and held

    @property
    def needs_probes(self) -> bool:
        """True when its view must carry probes."""
        return self.pruning.needs.probes or self.healing.needs_probes

    def allowance(self, before: Accuracy) -> Allowance:
        """Return what may be lost on validation data; nothing bounds it: everything."""
        if self.bound is None:
            return Allowance.under(0.0, before)
        return self.bound.allowance(before)

    def while_pruning(self, before: Accuracy) -> float:
        """Return the lowest validation accuracy allowed while heads are chosen."""
        return 0.0 if self.bound is None else self.bound.while_pruning(before)
