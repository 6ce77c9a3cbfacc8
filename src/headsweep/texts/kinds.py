"""Which kind of task a model is for, as its configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headsweep.errors import UserError, lookup, shown_all
from headsweep.texts.generation import GENERATION
from headsweep.texts.regression import REGRESSION
from headsweep.texts.several import SEVERAL
from headsweep.texts.tagging import TAGGING
from headsweep.texts.task import CLASSIFICATION, Task

KINDS: tuple[Task, ...] = (GENERATION, TAGGING, SEVERAL, REGRESSION, CLASSIFICATION)
"""The first that takes a model is its; the last takes whatever is left."""


NAMED = {task.words.task: task for task in KINDS}
"""By the name that ``--task`` and ``inspect`` have for it."""


def task_of(
    config: Any, architectures: Sequence[str] | None = None, wanted: str | None = None
) -> Task:
    """Return the task of a model.

    Args:
        config: its configuration.
        architectures: their names; None: those that the configuration holds.
        wanted: the name of the task that it is to be taken for where its configuration leaves that
            open: it names no architecture, or one without a head, or no ``problem_type``.
            None: whichever it is for as it stands.

    Raises:
        UserError: no task has that name, or the configuration says that it is for another.

    """
    named = config.architectures if architectures is None else architectures
    names = [str(one) for one in named] if isinstance(named, list) else []
    found = next(task for task in KINDS if task.takes(config, names))
    if wanted is None or wanted == found.words.task:
        return found
    task = lookup(wanted, NAMED, "value of --task")
    kind = getattr(config, "problem_type", None)
    heads = [one for one in names if "For" in one or one.endswith(GENERATION.heads)]
    if all(one.endswith(task.heads) for one in heads) and (
        kind is None or task.takes(config, task.heads)
    ):
        return task
    told = [*heads, *([] if kind is None else [f"problem_type {kind}"])]
    raise UserError(
        f"--task {wanted}: the configuration says {shown_all(told)}: a model for "
        f"{found.words.task}",
        "leave --task out, or give another model",
    )
