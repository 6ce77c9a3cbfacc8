"""Cells in order of importance, by one process or several over the same folder; resumes.

A cell is done when its file is there. Whoever works on one holds a lock on a file of its name in
``.claims``; the system lets go of it when the process ends, however it ends. A cell may need
others; then it waits, and what comes after it goes first.
"""

from __future__ import annotations

import fcntl
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from headsweep.export import write_json
from headsweep.progress import duration

WAIT_SECONDS = 2.0


class Task(Protocol):
    """Something to do once."""

    @property
    def name(self) -> str:
        """Of its file, without ``.json``."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the tasks to be done before."""


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Hold a name while inside; gives False where another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


@dataclass
class Queue:
    """Tasks over a folder of results.

    Attributes:
        tasks: the most important first.
        do: makes a task's form.
        results: where forms go, a file each.
        stop_after_seconds: none is begun later than that; None: no end.
        done: tells whether a task needs doing no more; None: its file is there.

    """

    tasks: Sequence[Any]
    do: Callable[[Any], dict[str, Any]]
    results: Path
    stop_after_seconds: float | None = None
    done: Callable[[Any], bool] | None = None
    failed: set[str] = field(default_factory=set)

    def run(self) -> list[str]:
        """Do what can be done; return the names of what is left."""
        begun, names = time.monotonic(), {task.name: task for task in self.tasks}
        while left := [task for task in self.tasks if not self._done(task)]:
            late = time.monotonic() - begun
            if self.stop_after_seconds is not None and late >= self.stop_after_seconds:
                break
            ready = [
                task
                for task in left
                if task.name not in self.failed
                and all(self._done(names[need]) for need in task.needs)
            ]
            told = f"{len(self.tasks) - len(left) + 1} of {len(self.tasks)}, {duration(late)}"
            if not any(self._try(task, told) for task in ready):
                if not any(self._held(task.name) for task in left):
                    break
                time.sleep(WAIT_SECONDS)
        return [task.name for task in self.tasks if not self._done(task)]

    def _done(self, task: Any) -> bool:
        return self.done(task) if self.done else (self.results / f"{task.name}.json").exists()

    def _held(self, name: str) -> bool:
        with claimed(self.results / ".claims", name) as mine:
            return not mine

    def _try(self, task: Any, told: str) -> bool:
        """Do a task, unless another process is at it; tell whether it was tried."""
        with claimed(self.results / ".claims", task.name) as mine:
            if not mine or self._done(task):
                return False
            print(f"== {task.name} ({told})", flush=True)
            begun = time.monotonic()
            try:
                write_json(self.results / f"{task.name}.json", self.do(task))
            except Exception:  # one cell that fails is no reason to lose the others
                traceback.print_exc()
                self.failed.add(task.name)
            print(f"   {duration(time.monotonic() - begun)}", flush=True)
        return True
