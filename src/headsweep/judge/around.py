"""Probes before and after: the battery on a suspect, and on what purification made of it.

The texts are few, so that it costs little beside healing; ``headsweep probe`` takes more.
"""

from __future__ import annotations

from typing import Any

from headsweep.errors import UserError
from headsweep.judge.flipped import Battery, Probed
from headsweep.judge.probing import prober_of
from headsweep.model.loading import Suspect
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress
from headsweep.texts.split import Split

TEXTS, LEAST_A_LABEL = 120, 30  # clean texts in all, unless that leaves a label fewer
MOST_LABELS = 20  # the rows to resample grow with the square of the labels


class Around:
    """Observes a purification: probes the suspect, then the result, and keeps what it found.

    Where it cannot probe it says why, and the purification goes on. What may take longer than
    that has to be asked for: a generator, which writes many answers, and many labels.

    Attributes:
        found: what the battery found, by stage: ``before``, ``after``.
        why: why it was not run, or not to the end; empty: it was.

    """

    def __init__(self, seed: int, runtime: Runtime, progress: Progress, *, asked: bool) -> None:
        """Take the seed, where to compute and where to report; ``asked``: whatever it costs."""
        self.found: dict[str, Probed] = {}
        self.why = ""
        self._seed, self._runtime, self._progress = seed, runtime, progress
        self._asked = asked

    def __call__(self, stage: str, suspect: Suspect, held: Split) -> None:
        """Probe a model on clean texts that it was not healed on."""
        if self.why:
            return
        labels = len(suspect.labels.names)
        try:
            prober = prober_of(suspect)
            if not (prober.quick or self._asked):
                raise UserError("many answers would be written; --probe yes does that")
            if labels > MOST_LABELS and not self._asked:
                raise UserError(f"{labels} labels take long; --probe yes takes them")
            texts = max(LEAST_A_LABEL, TEXTS // labels) if labels else prober.texts
            battery = Battery(texts=texts, seed=self._seed)
            self.found[stage] = prober.probe(suspect, held, battery, self._runtime, self._progress)
        except UserError as error:
            self.why = error.what
            self._progress.say(f"note: not probed: {error.what}")

    def to_json(self) -> dict[str, Any]:
        """Return it for a manifest."""
        found = {stage: one.to_json() for stage, one in self.found.items()}
        return found | ({"not_run": self.why} if self.why else {})
