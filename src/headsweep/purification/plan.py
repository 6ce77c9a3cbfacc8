"""How a method is run: what decides no more than where, from which seed, and with whose help."""

from __future__ import annotations

from dataclasses import dataclass

from headsweep.model.families import Adapter
from headsweep.model.runtime import Runtime
from headsweep.prune.scores import ScoreCache
from headsweep.settings import able, checked
from headsweep.task.probes import Prober
from headsweep.texts.task import Task


@dataclass(frozen=True)
@checked
class Plan:
    """How to run a method.

    Attributes:
        seed: decides everything random.
        runtime: device, batch size, maximum length, precision.
        adapter: how to find the heads of an unknown architecture.
        prober: makes the probes that the view carries; None: it carries none.
        task: what the suspect is for; None: as its configuration says.
        scores: keeps scores between purifications of one suspect; None: nothing is kept.
        base_model: the model that the suspect is an adapter of; None: it is a whole model.

    """

    seed: int = 0
    runtime: Runtime = Runtime()
    adapter: Adapter | None = None
    prober: Prober | None = None
    scores: ScoreCache | None = None
    task: Task | None = None
    base_model: str | None = None

    def __post_init__(self) -> None:
        if self.task is not None:
            able(self.task, "words", "Plan: task", "a task; its name goes to task= of purify")
