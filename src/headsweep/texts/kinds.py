"""Which kind of task a model is for, as its configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headsweep.texts.generation import GENERATION
from headsweep.texts.regression import REGRESSION
from headsweep.texts.several import SEVERAL
from headsweep.texts.tagging import TAGGING
from headsweep.texts.task import CLASSIFICATION, Task

KINDS: tuple[Task, ...] = (GENERATION, TAGGING, SEVERAL, REGRESSION, CLASSIFICATION)
"""The first that takes a model is its; the last takes whatever is left."""


def task_of(config: Any, architectures: Sequence[str] | None = None) -> Task:
    """Return the task of a model.

    Args:
        config: its configuration.
        architectures: their names; None: those that the configuration holds.

    """
    named = config.architectures if architectures is None else architectures
    names = [str(one) for one in named] if isinstance(named, list) else []
    return next(task for task in KINDS if task.takes(config, names))
