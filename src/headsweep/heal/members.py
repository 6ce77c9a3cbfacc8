"""Healings of the same pruned weights that differ by their seed.

One is made after the other. Where a folder keeps what is finished, every member is written there
as it ends, under a hash of all that decides it: an interrupted run goes on after its last one, to
the same bytes. Where several processes may work, they fill such a folder beside each other first.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from headsweep.heal.beside import Work, jobs_for, side_by_side
from headsweep.heal.finished import Tell, put, taken
from headsweep.model.anatomy import Anatomy
from headsweep.model.content import content_hash
from headsweep.model.runtime import on_threads
from headsweep.progress import Titled
from headsweep.prune.choice import Choice
from headsweep.prune.view import DefenderView
from headsweep.seeding import derive
from headsweep.settings import describe
from headsweep.task.training import DivergedError, put_back


class One(Protocol):
    """One healing: a frozen dataclass whose fields are its configuration."""

    def heal(self, view: DefenderView, choice: Choice) -> dict[str, Any]:
        """Train the model in place; return what to record."""

    def work(self, examples: int) -> float:
        """Return how many forward passes of a text it costs, about."""

    def moves(self, anatomy: Anatomy) -> frozenset[str] | None:
        """Return the names of the parameters that it may change; None: any."""


@dataclass(frozen=True)
class Made:
    """A member.

    Attributes:
        record: what it wrote down.
        finite: its loss stayed a number.

    """

    record: dict[str, Any]
    finite: bool = True


def made_members(
    view: DefenderView, choice: Choice, one: One, count: int, start: Mapping[str, Tensor]
) -> Iterator[Made]:
    """Yield members, each made from the weights ``start``, which the model has at the first call.

    ``start`` holds all that a member may change.

    The model has a member's weights until the next is asked for.
    """
    model = view.anatomy.model
    jobs, threads = jobs_for(view, one.work(len(view.train)), count)
    with _folder(view, needed=jobs > 1) as kept:
        files: list[Path | None] = [None] * count
        if kept is not None:
            key = _key(view, choice, one, threads)
            files = [kept / f"{key}-{number}.safetensors" for number in range(count)]
        if jobs > 1:
            missing = {n: file for n, file in enumerate(files) if file and not file.exists()}
            side_by_side(Work(view, choice, one, missing), jobs, threads)
        for number, file in enumerate(files):
            put_back(model, start)
            done = taken(file, model, one.moves(view.anatomy))
            if done is None:
                shown = Titled(view.progress, f"{number + 1} of {count}")
                with on_threads(threads):
                    alone = replace(view, progress=shown)
                    member = make(alone, choice, one, number, file, view.progress.say)
            else:
                member = Made(**done)
            yield member


def make(
    view: DefenderView,
    choice: Choice,
    one: One,
    number: int,
    file: Path | None,
    tell: Tell | None = None,
) -> Made:
    """Make one member, and write it to a file; ``tell`` is told where that cannot be."""
    seed = view.seed if number == 0 else derive(view.seed, "member", number)
    try:
        made = Made(one.heal(replace(view, seed=seed), choice))
    except DivergedError:
        made = Made({}, finite=False)
    put(file, view.anatomy.model, vars(made), one.moves(view.anatomy), tell)
    return made


def _key(view: DefenderView, choice: Choice, one: One, threads: int) -> str:
    """Return a hash of all that decides a member but its number."""
    probes = [] if view.probes is None else [f.probes.sha256 for f in view.probes.families]
    told = [
        describe(one),
        view.seed,
        asdict(view.runtime),
        threads,
        view.train.sha256,
        probes,
        [one.ids for one in view.fixed],
        choice.mask.to_json(),
        content_hash(view.anatomy.model),
        torch.__version__,
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]


@contextmanager
def _folder(view: DefenderView, needed: bool) -> Iterator[Path | None]:
    if view.kept is not None or not needed:
        yield view.kept
        return
    with tempfile.TemporaryDirectory(prefix="headsweep-") as folder:
        yield Path(folder)
