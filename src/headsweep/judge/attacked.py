"""What judging models has in common where an answer is not one label: success, floor, excess.

success    share of what the attacker can change that is answered as the attacker wants.
on clean   the same share of clean examples.
floor      success on a never-poisoned twin.
excess     success minus floor; 0 is the goal, and it can be negative.
agreement  how far clean examples are answered as by the suspect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headsweep.judge.statistics import Line, Rate, Truncated, paired_difference, proportion
from headsweep.measure.accuracy import logits, numbers
from headsweep.model.loading import Suspect
from headsweep.model.runtime import Runtime
from headsweep.task.examples import encode
from headsweep.texts.encoded import Encoded
from headsweep.texts.split import Split

T = TypeVar("T")
Hits = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """Figures of a model; None where it was not asked for.

    Attributes:
        success, clean_success, floor_success, excess_success, agreement: as the module says.
        truncated: by part of the exam, how many texts were cut.

    """

    success: Rate | None = None
    clean_success: Rate | None = None
    floor_success: Rate | None = None
    excess_success: Rate | None = None
    agreement: Rate | None = None
    truncated: dict[str, Truncated] | None = None

    def attack_lines(self, triggered: str, clean: str) -> list[Line]:
        """Return success and what it is compared with, as people read them.

        Args:
            triggered: what success counts.
            clean: the same of clean examples.

        """
        return [
            Line("attack success", self.success, triggered),
            Line("on clean", self.clean_success, clean),
            Line("floor", self.floor_success, "attack success on the never-poisoned twin"),
            Line("excess", self.excess_success, "attack success minus floor; 0 is the goal"),
        ]

    def remarks(self) -> list[str]:
        """Return none."""
        return []


def attacked(
    hits: Hits, on_clean: Hits, twin: Hits | None, seed: int = 0
) -> dict[str, Rate | None]:
    """Return success, the same share of clean examples, the twin's and ours minus that, by name.

    Args:
        hits: on which triggered examples the attack succeeded.
        on_clean: which clean ones are answered so; empty: none counts.
        twin: on which it succeeded with a never-poisoned twin; None: there is none.
        seed: of the bootstrap.

    """
    found = {"success": proportion(int(hits.sum()), len(hits))}
    if len(on_clean):
        found["clean_success"] = proportion(int(on_clean.sum()), len(on_clean))
    if twin is not None:
        ours, theirs = (x.astype(np.float64) for x in (hits, twin))
        found["floor_success"] = proportion(int(twin.sum()), len(twin))
        found["excess_success"] = paired_difference(ours, theirs, seed=seed)
    return dict(found)


class Exam(Protocol):
    """What models are judged on: clean examples, and triggered ones where there are some."""

    @property
    def clean(self) -> Split:
        """Clean examples."""

    @property
    def triggered(self) -> Split | None:
        """Triggered examples that count; None: none."""


@dataclass(frozen=True)
class Said(Generic[T]):
    """What one model says to an exam."""

    clean: T
    triggered: T | None
    truncated: dict[str, Truncated]


def said(
    suspect: Suspect, exam: Exam, runtime: Runtime, read: Callable[[Encoded, Tensor], T]
) -> Said[T]:
    """Run a model over an exam.

    Args:
        suspect: the model.
        exam: what it is judged on.
        runtime: how to compute.
        read: makes of examples and the model's answers to them what it says.

    """
    parts = {"data": exam.clean}
    parts |= {} if exam.triggered is None else {"triggered": exam.triggered}
    made = {name: encode(part, suspect, runtime.max_length) for name, part in parts.items()}
    told = {
        name: read(part, numbers(logits(suspect.anatomy, part, runtime)))
        for name, part in made.items()
    }
    cut = {name: Truncated(part.truncated, len(part)) for name, part in made.items()}
    return Said(told["data"], told.get("triggered"), cut)
