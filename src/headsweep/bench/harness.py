"""Run a grid: which cells are missing, what they need first, and what has come of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from headsweep.bench.engines import NEEDED_MIB, Engine, Outcome
from headsweep.bench.grid import Grid
from headsweep.bench.identity import code_hash, commit
from headsweep.bench.matching import count_of
from headsweep.bench.orders import CellOrder, Order, VictimOrder, orders, selected
from headsweep.bench.results.shapes import CELL_FORMAT, VICTIM_FORMAT
from headsweep.bench.results.store import Form, Found, Store, read_victims
from headsweep.bench.sources import Hashes
from headsweep.drafts import remove_dead_drafts
from headsweep.errors import UserError
from headsweep.progress import Progress, Tick, duration


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        cells: every cell asked for.
        found: what the results folder already has of them.
        seconds: of finished cells by method, and of victims under ``victim``.
        memory_mib: the most that a finished cell has held; None: none has finished.

    """

    cells: tuple[CellOrder, ...]
    found: Found
    seconds: dict[str, float]
    memory_mib: float | None

    @property
    def missing(self) -> list[CellOrder]:
        """The cells to run."""
        return [cell for cell in self.cells if cell.id not in self.found.finished]

    def estimate(self, jobs: int) -> float | None:
        """Return the seconds that the missing cells should take; None: nothing to go by."""
        if not self.seconds:
            return None
        usual = mean(self.seconds.values())
        needs = [order for cell in self.missing for order in needed(cell)]
        victims = {order.id for order in needs if not isinstance(order, CellOrder)}
        each = [self.seconds.get(cell.method.name, usual) for cell in self.missing]
        return (sum(each) + len(victims) * self.seconds.get("victim", usual)) / jobs

    @property
    def needs_mib(self) -> float:
        """How much memory to reckon with for a cell."""
        return self.memory_mib or NEEDED_MIB


def needed(order: Order) -> Iterator[Order]:
    """Return what an order needs, the deepest first."""
    for other in order.needs:
        yield from needed(other)
        yield other


def plan(grid: Grid, store: Store, cache: Path, only: str | None, any_version: bool) -> Plan:
    """Return what is to be done; raises UserError when nothing matches, or data is missing."""
    cells = orders(grid, Hashes(cache))
    chosen = selected(cells, only)
    if not chosen:
        raise UserError(f"no cell matches '{only}'", f"cells are called like {cells[0].id}")
    found = store.look(chosen, any_version)
    everything = store.look(cells, True).finished.values()
    return Plan(tuple(chosen), found, _times(store, everything), _memory(everything))


def _times(store: Store, finished: Iterable[Form]) -> dict[str, float]:
    times: dict[str, list[float]] = {}
    for form in finished:
        times.setdefault(form["method"], []).append(form["seconds"]["all"])
    for record in read_victims(store.folder).values():
        times.setdefault("victim", []).append(record["seconds"]["all"])
    return {name: mean(values) for name, values in times.items()}


def _memory(finished: Iterable[Form]) -> float | None:
    return max((form.get("peak_memory_mib") or 0.0 for form in finished), default=0.0) or None


@dataclass
class Tally:
    """What came of a run."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: int = 0


Watch = Callable[[CellOrder, Form], None]


@dataclass
class Run:
    """A run under way.

    Attributes:
        store: where results go.
        engine: what fills orders.
        progress: where to report.
        until: a time (``time.monotonic``) after which nothing new is begun.
        watch: called with every finished cell (tracking).
        finished: cells that were finished before, by name.

    """

    store: Store
    engine: Engine
    progress: Progress
    until: float = float("inf")
    watch: Watch | None = None
    finished: Mapping[str, Form] = field(default_factory=dict)
    waiting: list[Order] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    filled: set[str] = field(default_factory=set)
    broken: dict[str, str] = field(default_factory=dict)
    under_way: int = 0
    tally: Tally = field(default_factory=Tally)
    tick: Tick = lambda _done, _note: None

    def run(self, cells: Sequence[CellOrder]) -> Tally:
        """Run cells, what they need first; write each as it comes.

        Raises:
            UserError: nothing can be written any more.

        """
        remove_dead_drafts(self.store.folder)
        self.counts = {name: count_of(form) for name, form in self.finished.items()}
        self.filled = set(self.finished)
        listed = {order.id: order for cell in cells for order in (*needed(cell), cell)}
        self.waiting = [order for order in listed.values() if order.id not in self.filled]
        try:
            with self.progress.task("cells", len(cells)) as self.tick:
                while self._begin() or self.under_way:
                    for order, outcome in self.engine.wait():
                        self.under_way -= 1
                        self._take(order, outcome)
        finally:
            self.engine.stop()
        self.tally.left = len(cells) - len(self.tally.done) - len(self.tally.failed)
        return self.tally

    def _begin(self) -> bool:
        """Give the engine what it can take; return whether anything new was begun."""
        begun = False
        for order in list(self.waiting):
            lost = next((n.id for n in order.needs if n.id in self.broken), None)
            if lost is not None:
                self.waiting.remove(order)
                self._lose(order, f"{lost}: {self.broken[lost]}", "")
            elif (
                self.engine.free > 0
                and time.monotonic() < self.until
                and all(need.id in self.filled for need in order.needs)
            ):
                self.waiting.remove(order)
                self.engine.submit(self._ready(order))
                self.under_way += 1
                begun = True
        return begun

    def _ready(self, order: Order) -> Order:
        """Return an order with all that it needs in it."""
        if not isinstance(order, CellOrder) or order.like is None:
            return order
        return replace(order, count=self.counts[order.like.id])

    def _take(self, order: Order, outcome: Outcome) -> None:
        if outcome.fatal:
            raise UserError(
                outcome.error, "make room and give the same command again: finished cells stay"
            )
        if outcome.error:
            self._lose(order, outcome.error, outcome.trace)
            return
        if outcome.record.get("code", code_hash()) != code_hash():
            self._lose(order, "the worker runs other code than this process", "")
            return
        form = outcome.record
        try:
            if isinstance(order, VictimOrder):
                self.store.victim(order.id, {"format": VICTIM_FORMAT, "id": order.id} | form)
            elif isinstance(order, CellOrder):
                form = described(order) | form
                self.store.finish(order, form)
        except ValueError as error:  # a number that is none: JSON has no place for it
            self._lose(order, f"its record cannot be written: {error}", "")
            return
        self.filled.add(order.id)
        if isinstance(order, CellOrder):
            self.counts[order.id] = count_of(form)
            self.tally.done.append(order.id)
            self.tick(1, "")
            self.progress.say(told(order.id, form))
            if self.watch:
                self.watch(order, form)

    def _lose(self, order: Order, error: str, trace: str) -> None:
        first = error.split("\n")[0]
        self.broken[order.id] = first
        self.progress.say(f"FAILED {order.id}: {first}")
        if isinstance(order, CellOrder):
            why = {"error": error, "trace": trace} | described(order)
            self.store.fail(order, why | {"status": "failed"})
            self.tally.failed[order.id] = first
            self.tick(1, "")


def described(cell: CellOrder) -> Form:
    """Return what a cell is: its place in the grid, and what made it."""
    twin = cell.victim.twin
    return {
        "format": CELL_FORMAT,
        "id": cell.id,
        "key": cell.key,
        "victim": cell.victim.id,
        "victim_key": cell.victim.key,
        "model": twin.model.name,
        "data": twin.texts.name,
        "attack": cell.victim.attack.name,
        "method": cell.method.name,
        "base": cell.method.method,
        "kind": cell.method.kind,
        "fields": list(cell.method.fields),
        "match": cell.like.method.name if cell.like else None,
        "seed": cell.seed,
        "threads": twin.computing.threads,
        "recipe": asdict(cell.recipe) | {"variables": list(cell.recipe.variables)},
        "code": code_hash(),
        "commit": commit(),
    }


def told(name: str, form: Form) -> str:
    """Return a finished cell as one line."""
    after: dict[str, Any] = form["after"]
    excess = after["excess_lfr"]
    return (
        f"{name}: ACC {after['accuracy']['value']:.3f}, excess LFR {100 * excess['value']:+.1f} "
        f"points ({100 * excess['low']:+.0f} to {100 * excess['high']:+.0f}), "
        f"{duration(form['seconds']['all'])}"
        + (" (nothing could be pruned)" if form["status"] != "done" else "")
    )
