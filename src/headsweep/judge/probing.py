"""Which probes there are for a kind of task, and what they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headsweep.errors import UserError
from headsweep.judge import battery, prompted
from headsweep.judge.flipped import Probed
from headsweep.model.loading import Suspect
from headsweep.texts import reading
from headsweep.texts.conversations import plain_rows
from headsweep.texts.reading import Columns, Source
from headsweep.texts.split import Split


@dataclass(frozen=True)
class Prober:
    """How models of one kind are probed.

    Attributes:
        texts: clean texts of each label that are taken unless somebody says otherwise; where there
            are no labels, in all.
        rows: reads them, in the way of a suspect; raises UserError.
        probe: tries them.
        quick: whether it costs little beside a purification.

    """

    texts: int
    rows: Callable[[Source, Suspect, Columns], Split]
    probe: Callable[..., Probed]
    quick: bool


def _labelled(source: Source, suspect: Suspect, columns: Columns) -> Split:
    return reading.load(source, columns, suspect.labels)


def _prompts(source: Source, suspect: Suspect, columns: Columns) -> Split:
    """Read prompts as texts, with answers or without: no trigger fits a rendered chat."""
    del suspect
    if isinstance(source, Split):
        return source
    return plain_rows(reading.read(source), columns, answered=False)


PROBERS = {
    "classification": Prober(150, _labelled, battery.probe, quick=True),
    "generation": Prober(60, _prompts, prompted.probe, quick=False),
}
"""By the kind of task."""


def prober_of(suspect: Suspect) -> Prober:
    """Return how a model is probed; raises UserError where models of its kind cannot be."""
    kind = suspect.task.words.task
    if kind not in PROBERS:
        suspect.task.one_label("a probe")
        raise UserError(f"there are no probes for {kind}")
    return PROBERS[kind]
