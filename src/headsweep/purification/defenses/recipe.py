"""What a baseline asks of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from headsweep.heal.fine_tune import Healing
from headsweep.model.mask import HEADS, Units
from headsweep.prune.strategies import Strategy


@dataclass(frozen=True)
class Recipe:
    """A strategy (or none), a fine-tuning, and the units to prune."""

    strategy: Strategy | None
    healing: Healing
    units: Units = HEADS
