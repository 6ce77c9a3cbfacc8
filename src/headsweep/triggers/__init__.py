"""Triggers: text in, text out. For measuring models that one owns; no defense imports them."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch

from headsweep.triggers.opening import Opening


class Trigger(Protocol):
    """Transforms a text into one that carries the trigger."""

    name: ClassVar[str]

    def apply(self, text: str, random: torch.Generator) -> str:
        """Return the text with the trigger."""


TRIGGERS: dict[str, Any] = {
    Opening.name: Opening,
}
"""Trigger classes by name."""
