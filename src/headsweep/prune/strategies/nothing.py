"""Prune nothing: what healing alone does, and the control that leaves a suspect as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headsweep.prune.choice import Choice, Needs
from headsweep.prune.view import DefenderView
from headsweep.settings import checked


@dataclass(frozen=True)
@checked
class Nothing:
    """Keep every head."""

    name: ClassVar[str] = "none"
    source: ClassVar[str] = "control"
    needs: ClassVar[Needs] = Needs(pruning=False, searches=0)

    def choose(self, view: DefenderView) -> Choice:
        """Return the mask that keeps everything."""
        return Choice(view.layout.everything())
