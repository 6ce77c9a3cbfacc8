"""What healings have in common that train all weights once, on clean texts, whatever it costs."""

from __future__ import annotations

from abc import ABC, abstractmethod

from headsweep.model.anatomy import Anatomy


class WholeOnce(ABC):
    """A healing of all weights, which no bound makes begin anew."""

    @property
    @abstractmethod
    def trains(self) -> bool:
        """False where it leaves the weights as they are."""

    @property
    def frozen(self) -> bool:
        """It trains all weights, where it trains."""
        return not self.trains

    @property
    def needs_probes(self) -> bool:
        """It heals on clean texts."""
        return False

    @property
    def tries(self) -> int:
        """It never begins anew."""
        return 0

    def moves(self, anatomy: Anatomy) -> None:
        """Return None: it may change any weight."""
        del anatomy

    def cooler(self) -> None:
        """There is nothing cooler."""
        return
