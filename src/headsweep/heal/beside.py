"""Healings beside each other, in processes of their own.

A training step of short texts does not keep many cores busy: two processes with half of the cores
each get more done than one with all of them. Every process is a fresh Python that gets the pruned
model and the texts through its standard input, writes members to files, and tells its steps line
by line. One that cannot work (no memory, a task that only the caller knows) costs nothing but
time: whatever is missing in the end is made in the caller's process.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import torch
from torch import nn

from headsweep.model.anatomy import layers_of
from headsweep.model.runtime import free_bytes
from headsweep.orphans import end_with
from headsweep.progress import Silent, Tick
from headsweep.prune.choice import Choice
from headsweep.prune.view import DefenderView
from headsweep.quick import started
from headsweep.task.training import copied, put_back

WORTH = 2e12  # multiplications of a member from which on a process of its own pays: half a minute
SCALING = 0.68  # two threads do 1.6 times as much as one (MiniLM, sentences of 25 tokens)
OVERHEAD = 1 << 30  # bytes of a process beside the model, its gradients and the optimiser
COPIES = 5  # of the weights: parameters, gradients, two of the optimiser, one to begin from
STARTED = f"from headsweep.quick import begun; begun({__name__!r}, 'main')"
"""What a process reads; with -P, so that nothing of the folder here is taken for a module."""


@dataclass(frozen=True)
class Work:
    """What is to be made: one healing, by number, each into a file."""

    view: DefenderView
    choice: Choice
    one: Any
    files: dict[int, Path]


def jobs_for(view: DefenderView, passes: float, count: int) -> tuple[int, int]:
    """Return how many processes to use, and how many threads each healing has.

    Threads decide the bytes of a healing, so they follow from the machine and from what was asked.
    How much memory is free right now only decides how many run at once.
    ``passes``: forward passes of a text that one healing costs.
    """
    cores, asked = torch.get_num_threads(), view.runtime.jobs
    if view.anatomy.model.device.type != "cpu" or count == 1 or asked == 1:
        return 1, cores
    model = view.anatomy.model
    weights = sum(p.numel() for p in model.parameters())
    layers = layers_of(view.anatomy)
    table: nn.Embedding = model.get_input_embeddings()  # type: ignore[assignment]
    often = len(layers) / len({id(layer) for layer in layers})  # ALBERT passes one many times
    passed = often * (weights - table.weight.numel())
    tokens = view.train.tokens / max(1, len(view.train))
    if asked is None and 2 * passed * tokens * passes < WORTH:
        return 1, cores
    room = int(free_bytes(model.device) // (COPIES * 4 * weights + OVERHEAD))
    if asked is None:
        jobs = min(range(1, max(1, min(count, cores)) + 1), key=_wall(count, cores))
    else:
        jobs = max(1, min(count, asked))
    return max(1, min(jobs, room)), max(1, cores // jobs)


def _wall(count: int, cores: int) -> Callable[[int], float]:
    """Return what tells how long so many healings take on these cores, in so many processes."""

    def wall(jobs: int) -> float:
        rounds = -(-count // jobs)
        return float(rounds / (cores // jobs) ** SCALING)

    return wall


def side_by_side(work: Work, jobs: int, threads: int) -> None:
    """Fill the files of some work; leave those out that a process could not make."""
    numbers = list(work.files)
    if not numbers:
        return
    bare = replace(work.view, progress=Silent(), scores=None)
    try:
        sent = pickle.dumps((replace(work, view=bare), threads))
    except (pickle.PicklingError, AttributeError, TypeError):
        return
    said: SimpleQueue[tuple[int, dict[str, Any] | None]] = SimpleQueue()
    with ExitStack() as stack:
        open_ = {
            place: stack.enter_context(_process(sent, numbers[place::jobs], place, said))
            for place in range(min(jobs, len(numbers)))
        }
        title = f"healing {len(numbers)} times, {len(open_)} beside each other"
        tick: Tick | None = None
        while open_:
            try:
                place, told = said.get(timeout=1)
            except Empty:
                continue
            if told is None:
                del open_[place]
                continue
            if tick is None:
                total = told["total"] * len(numbers)
                tick = stack.enter_context(work.view.progress.task(title, total))
            tick(told["done"], told["note"])
    left = sum(not file.exists() for file in work.files.values())
    if left:
        work.view.progress.say(f"note: {left} healings ended early in their process: made here")


@contextmanager
def _process(
    sent: bytes, numbers: list[int], place: int, said: SimpleQueue[Any]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that makes these members; it ends with the context."""
    known = os.pathsep.join(path for path in sys.path if path)
    running = subprocess.Popen(
        [sys.executable, "-P", "-c", STARTED, json.dumps(numbers), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": known},
    )

    def feed() -> None:
        assert running.stdin is not None
        assert running.stdout is not None
        try:
            running.stdin.write(sent)
            running.stdin.close()
            for line in running.stdout:
                said.put((place, json.loads(line)))
        except (OSError, ValueError):
            pass
        said.put((place, None))

    feeder = Thread(target=feed, daemon=True)
    feeder.start()
    try:
        with running:
            try:
                yield running
            finally:  # before its output is closed, which waits for a line of it
                running.kill()
    finally:
        running.kill()
        feeder.join()


class _Told(Silent):
    """Tells the caller's process of every tenth step."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Tick]:
        """Pass steps on."""
        waiting = 0

        def tick(done: int, note: str) -> None:
            nonlocal waiting
            waiting += done
            if title == "healing" and waiting >= 10:
                tell(waiting, note)
                waiting = 0

        def tell(done: int, note: str) -> None:
            print(json.dumps({"total": total, "done": done, "note": note}), flush=True)

        yield tick
        if title == "healing" and waiting:
            tell(waiting, "")


def main() -> None:
    """Make the members that the command line names of the work on standard input."""
    from headsweep.heal.members import make

    end_with(int(sys.argv[2]))
    work, threads = pickle.load(sys.stdin.buffer)
    started()
    torch.set_num_threads(threads)
    view = replace(work.view, progress=_Told())
    model = view.anatomy.model
    start = copied(model, work.one.moves(view.anatomy))
    for number in json.loads(sys.argv[1]):
        put_back(model, start)
        make(view, work.choice, work.one, number, work.files[number])
