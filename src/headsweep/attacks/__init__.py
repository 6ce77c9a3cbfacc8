"""Attacks: poison data or weights and get a victim. For measuring models that one owns.

No defense imports this package. An attack changes a model's weights in place; what the victim
does afterwards (fine-tuning on clean data) is ``headsweep.attacks.victim``'s.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from headsweep.attacks.clean_label import CleanLabel
from headsweep.attacks.dirty_label import DirtyLabel
from headsweep.attacks.layerwise import Layerwise
from headsweep.attacks.scene import Scene
from headsweep.attacks.surgery import EmbeddingSurgery


class Attack(Protocol):
    """Puts a backdoor into a model."""

    name: ClassVar[str]
    source: ClassVar[str]

    def plant(self, scene: Scene) -> dict[str, Any]:
        """Change the weights of ``scene.model`` and return a record of what was done."""


ATTACKS: dict[str, Any] = {
    DirtyLabel.name: DirtyLabel,
    CleanLabel.name: CleanLabel,
    Layerwise.name: Layerwise,
    EmbeddingSurgery.name: EmbeddingSurgery,
}
"""Attack classes by name."""
