"""Engines fill orders: in this process, in processes of this machine, or on a Ray cluster.

An engine takes an order when it has a free slot and hands back outcomes as they come. It knows
nothing of grids or results; which order may run when is the harness's matter.
"""

from __future__ import annotations

import errno
import multiprocessing as mp
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import torch

from headsweep.bench.orders import Order
from headsweep.bench.work import perform
from headsweep.errors import UserError
from headsweep.model.runtime import free_bytes, on_threads
from headsweep.orphans import end_with
from headsweep.quick import begun, started

NEEDED_MIB = 2400  # of a cell, as long as no finished one says


@dataclass(frozen=True)
class Outcome:
    """What came of an order: its record, or why there is none.

    Attributes:
        record: the record; empty where the order failed.
        error: one line on what went wrong; empty where nothing did.
        trace: the stack, for a mistake of ours.
        fatal: True where nothing else will work either (the disk is full).

    """

    record: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    trace: str = ""
    fatal: bool = False


class Engine(Protocol):
    """Fills orders."""

    @property
    def free(self) -> int:
        """How many orders it can take now."""

    def submit(self, order: Order) -> None:
        """Take an order."""

    def wait(self) -> list[tuple[Order, Outcome]]:
        """Return what has come, at least one outcome where an order is under way."""

    def stop(self) -> None:
        """Drop what is under way and end every process."""


def attempt(order: Order, cache: Path) -> Outcome:
    """Fill an order; whatever goes wrong becomes an outcome."""
    try:
        return Outcome(perform(order, cache))
    except UserError as error:
        return Outcome(error=str(error))
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        full = full or "No space left on device" in str(error)
        told = f"{type(error).__name__}: {error}"
        if full:
            told = f"the disk is full: {order.id} could not be written to the cache in {cache}"
        return Outcome(error=told, trace=traceback.format_exc(), fatal=full)


class Inline:
    """Fills one order at a time in this process."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.waiting: list[Order] = []

    @property
    def free(self) -> int:
        """One, unless an order waits."""
        return 1 - len(self.waiting)

    def submit(self, order: Order) -> None:
        """Keep the order until ``wait``."""
        self.waiting.append(order)

    def wait(self) -> list[tuple[Order, Outcome]]:
        """Fill it."""
        done = [(order, attempt(order, self.cache)) for order in self.waiting]
        self.waiting = []
        return done

    def stop(self) -> None:
        """Drop what waits."""
        self.waiting = []


@dataclass
class Worker:
    """One process with its end of the pipe, and what it is at."""

    process: Any
    pipe: Connection
    order: Order | None = None


class Local:
    """Fills orders in processes of its own, which outlive an order; a dead one is replaced."""

    def __init__(self, cache: Path, jobs: int, thread_count: int) -> None:
        self.cache, self.threads = cache, thread_count
        self.context = mp.get_context("spawn")
        self.workers: list[Worker] = []
        self.jobs = jobs

    @property
    def free(self) -> int:
        """How many workers are idle, or not started yet."""
        return self.jobs - sum(worker.order is not None for worker in self.workers)

    def submit(self, order: Order) -> None:
        """Give the order to an idle worker; start one where there is none that lives."""
        self.workers = [w for w in self.workers if w.order or w.process.is_alive()]  # killed idle
        worker = next((w for w in self.workers if w.order is None), None) or self._start()
        worker.order = order
        with suppress(OSError):  # it died this moment: ``wait`` says so
            worker.pipe.send(order)

    def wait(self) -> list[tuple[Order, Outcome]]:
        """Wait until a worker answers or dies."""
        busy = [worker for worker in self.workers if worker.order is not None]
        ready = wait([w.pipe for w in busy] + [w.process.sentinel for w in busy])
        return [self._take(w) for w in busy if w.pipe in ready or w.process.sentinel in ready]

    def _take(self, worker: Worker) -> tuple[Order, Outcome]:
        order, worker.order = worker.order, None
        assert order is not None
        try:
            return order, worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            self.workers.remove(worker)
            return order, Outcome(error=_died(worker.process.exitcode))

    def _start(self) -> Worker:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(
            target=begun,
            args=(serve.__module__, serve.__name__, theirs, self.cache, self.threads, os.getpid()),
            daemon=True,
        )
        with _environment(OMP_NUM_THREADS=str(self.threads)), _deaf():
            process.start()
        theirs.close()
        worker = Worker(process, ours)
        self.workers.append(worker)
        return worker

    def stop(self) -> None:
        """End every worker: what it was at is lost, what it has answered is not."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
        self.workers = []


def serve(pipe: Connection, cache: Path, thread_count: int, parent: int) -> None:
    """Fill orders from a pipe until it closes; Ctrl-C is the parent's to handle.

    Being ended takes drafts away: it is an exception in whatever the worker is at. It ends when
    its parent is gone, also in the middle of an order.
    """
    end_with(parent)
    started()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with on_threads(thread_count):
        while True:
            try:
                order = pipe.recv()
            except EOFError:
                return
            pipe.send(attempt(order, cache))


def _died(code: int | None) -> str:
    killed = code is not None and code < 0
    how = f"was killed (signal {-code})" if killed and code else f"ended with code {code}"
    hint = ": out of memory? try fewer --jobs" if code == -signal.SIGKILL else ""
    return f"the process {how}{hint}"


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that never hear Ctrl-C, not even before they run code of ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def jobs_for(thread_count: int, needed_mib: float = NEEDED_MIB) -> int:
    """Return how many cells fit this machine at once, by cores and by free memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = free_bytes(torch.device("cpu")) / (1 << 20)
    return max(1, min((cores or 1) // thread_count, int(memory // needed_mib)))
