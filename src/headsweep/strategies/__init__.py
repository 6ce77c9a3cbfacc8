"""The strategies: one file and one line of the table each."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from headsweep.search import Choice
from headsweep.strategies.gradient import Gradient
from headsweep.view import DefenderView


class Strategy(Protocol):
    """Chooses the heads to prune. Its fields are its whole configuration."""

    name: ClassVar[str]
    source: ClassVar[str]

    def choose(self, view: DefenderView) -> Choice:
        """Return the choice; the view's model is left as it was."""


STRATEGIES: dict[str, Any] = {
    Gradient.name: Gradient,
}
"""Strategy classes by name."""
