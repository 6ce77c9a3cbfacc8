"""Gradient-based pruning: the heads that clean examples need least go first.

Source: Chapagain et al. 2025, gradient-based pruning; the default score is that of Michel et
al. 2019. Scores:

``gate``
    mean over examples of |∂loss/∂gate|, normalised per layer. The default: it measures what
    closing the head would change, and works with grouped queries.
``key``
    the paper's score: mean over batches of the norm of ∂loss/∂W_K on the head's rows (query
    rows where keys are shared).

Deviation: ``step`` is 10 heads or a seventh of all, whichever is less; the paper's 10 are a
seventh of BERT-base's 144 and nearly the whole of a small model's layer.
Cost: one forward and backward pass over ``examples`` training examples, then one validation
pass a step (cut short once decided) and one a head restored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import PositiveInt

from headsweep.errors import lookup
from headsweep.prune.choice import Choice, Needs
from headsweep.prune.importance import gate_importance, key_gradient_importance
from headsweep.prune.search import SEARCHES
from headsweep.prune.view import DefenderView
from headsweep.settings import checked

SCORES = {"gate": gate_importance, "key": key_gradient_importance}


@dataclass(frozen=True)
@checked
class Gradient:
    """Rank heads by a gradient score, then prune greedily.

    Attributes:
        score: ``gate`` or ``key``.
        step: heads dropped per trial; None: 10 or a seventh of all, whichever is less.
        examples: training examples scored at most.
        search: ``bisect``, or ``step``, the loop of the papers (``search``).

    """

    name: ClassVar[str] = "gradient"
    source: ClassVar[str] = "Chapagain et al. 2025; Michel et al. 2019"
    score: Literal["gate", "key"] = "gate"
    step: PositiveInt | None = None
    examples: PositiveInt | None = 2000
    search: Literal["bisect", "step"] = "bisect"

    @property
    def needs(self) -> Needs:
        """The score of the paper takes gradients of weights, and ranks heads only."""
        return Needs(weights=self.score == "key", heads=self.score == "key", searches=1)

    def choose(self, view: DefenderView) -> Choice:
        """Return the mask found by pruning in the order of gradient scores."""
        score = lookup(self.score, SCORES, "score")
        search = lookup(self.search, SEARCHES, "search")
        return search(view, score(view, self.examples), self.step)
