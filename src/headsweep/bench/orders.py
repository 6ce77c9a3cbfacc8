"""What the grid comes down to: tasks that say all they need, each with a content hash.

Three kinds: a never-poisoned ``twin``, a ``victim`` (with its own and the twin's answers), and a
``cell``: one method on one victim. The first two are shared steps, made once and kept in the
cache under their hash; a cell becomes one JSON file.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

from headsweep.attacks import ATTACKS
from headsweep.bench.backdoor import Backdoor
from headsweep.bench.corpus import Texts
from headsweep.bench.grid import (
    Computing,
    Defending,
    Grid,
    Method,
    Model,
    RecipeMark,
)
from headsweep.bench.identity import code_hash, digest, own_hash
from headsweep.errors import UserError
from headsweep.export.provenance import environment
from headsweep.settings import configure, describe
from headsweep.task.training import Schedule


@dataclass(frozen=True)
class TwinOrder:
    """A never-poisoned model, trained as a victim is, but for the poison.

    Attributes:
        model, texts: what is trained on what.
        attacker: the attacker's schedule, here on clean texts.
        victim: the victim's schedule; None: there is none.
        seed: decides everything random.
        computing: how.
        contents: hashes of the model's files and of the texts, and of a twin that is given.
        given: its folder, if so; then nothing is trained.

    """

    kind: ClassVar[str] = "twin"
    model: Model
    texts: Texts
    attacker: Schedule
    victim: Schedule | None
    seed: int
    computing: Computing
    contents: tuple[tuple[str, str], ...]
    given: str | None = None

    @property
    def id(self) -> str:
        """Its name."""
        return f"{self.model.name}-{self.texts.name}-s{self.seed}-twin-{self.key[:8]}"

    @cached_property
    def key(self) -> str:
        """The hash of everything that decides the result."""
        rows = [self.texts.attacker, self.texts.victim]
        versions = {name: environment()[name] for name in ("torch", "transformers")}
        code = [*map(code_hash, MAKING), own_hash(DRAWING)]
        return digest(_asked(self) | {"rows": rows, "code": code, "versions": versions})

    @property
    def needs(self) -> tuple[Any, ...]:
        """The orders that must be filled before."""
        return ()


@dataclass(frozen=True)
class VictimOrder:
    """A backdoored model, and the answers of it and of its twin on the exam."""

    kind: ClassVar[str] = "victim"
    twin: TwinOrder
    attack: Backdoor
    contents: tuple[tuple[str, str], ...]  # hashes of the attack's files

    @property
    def place(self) -> str:
        """Its model, data set and attack."""
        return f"{self.twin.model.name}-{self.twin.texts.name}-{self.attack.name}"

    @property
    def id(self) -> str:
        """Its name."""
        return f"{self.place}-s{self.twin.seed}"

    @cached_property
    def key(self) -> str:
        """The hash of everything that decides the result."""
        asked: dict[str, Any] = {"contents": list(self.contents), "attack": self.attack.decides}
        if self.twin.texts.test_rows is not None:
            asked["test_rows"] = self.twin.texts.test_rows  # of the triggered texts, too
        return digest({"twin": self.twin.key} | asked)

    @property
    def needs(self) -> tuple[Any, ...]:
        """The orders that must be filled before."""
        return (self.twin,)


@dataclass(frozen=True)
class CellOrder:
    """One method on one victim.

    Attributes:
        victim, method, defending: what is purified how, within what bound.
        recipe: for the record only.
        like: the cell whose number of heads it takes; None: it takes none.
        count: that number, once the other cell is finished.
        clean: the hash of the file that the defender's rows come from; None: of no other.
        drawn: the seed of the defender, where the victims of all seeds are one; None: the victim's.

    """

    kind: ClassVar[str] = "cell"
    victim: VictimOrder
    method: Method
    defending: Defending
    recipe: RecipeMark
    like: CellOrder | None = None
    count: int | None = None
    clean: str | None = None
    drawn: int | None = None

    @property
    def seed(self) -> int:
        """The seed of the defender's rows, of pruning and of healing."""
        return self.victim.twin.seed if self.drawn is None else self.drawn

    @property
    def id(self) -> str:
        """Its name, also of its file."""
        return f"{self.victim.place}-s{self.seed}-{self.method.name}"

    @cached_property
    def key(self) -> str:
        """The hash of everything that decides the result."""
        defending = self.defending
        made, bound = self.method.made(defending.heal, defending.bound), defending.decides
        asked: dict[str, Any] = {
            "strategy": describe(made.pruning) if made.pruning.needs.pruning else None,
            "healing": describe(made.healing),
            "units": {k: v for k, v in asdict(made.units).items() if k != "queries" or v},
            "defending": bound,
            "rows": self.victim.twin.texts.defender,
        }
        if self.victim.twin.texts.unseen:
            asked["unseen"] = True  # left out otherwise, as queries: there are cells from before
        if self.drawn is not None:
            asked["seed"] = self.drawn
        if self.clean is not None:
            asked["clean"] = self.clean
        if self.method.variation.probes:
            asked["probes"] = self.method.variation.probes
        if self.like is not None:
            asked["like"] = self.like.key  # not the count: the key is known before it
        return digest({"victim": self.victim.key} | asked)

    @property
    def needs(self) -> tuple[Any, ...]:
        """The orders that must be filled before."""
        unknown = self.like is not None and self.count is None
        return (self.victim, self.like) if unknown else (self.victim,)

    @property
    def asked(self) -> Method:
        """The method as it is run, its number of heads put in."""
        if self.count is None:
            return self.method
        return replace(self.method, fields=(*self.method.fields, f"count={self.count}"))


Order = TwinOrder | VictimOrder | CellOrder
MAKING = ("headsweep.attacks.victim", "headsweep.bench.corpus", "headsweep.triggers.paired")
"""A change of these, or of what they import, makes other twins and victims."""
DRAWING = ("headsweep.bench.sources", "headsweep.bench.results.packing")
"""Who draws their rows and packs their answers: these import what purifies, which changes none."""
Pairs = tuple[tuple[str, str], ...]


class Contents(Protocol):
    """Hashes of what an order reads."""

    def of_texts(self, model: Model, texts: Texts) -> Pairs:
        """Return those of a model and of a data set."""

    def of_attack(self, attack: Backdoor, texts: Texts) -> Pairs:
        """Return those of an attack's files."""

    def of_defender(self, texts: Texts) -> str | None:
        """Return that of the file that the defender's rows come from."""

    def of_folder(self, folder: str | None, texts: Texts) -> str:
        """Return that of a model that is given."""


def _asked(order: TwinOrder) -> dict[str, Any]:
    return {
        "contents": list(order.contents),
        "attacker": asdict(order.attacker),
        "victim": asdict(order.victim) if order.victim else None,
        "seed": order.seed,
        "computing": asdict(order.computing),
    }


def orders(grid: Grid, contents: Contents) -> list[CellOrder]:
    """Return the cells of a grid, those of a victim together, seed by seed."""
    found: list[CellOrder] = []
    for model in grid.models:
        for texts in grid.data:
            for seed in grid.seeds:
                for attack in grid.attacks:
                    if attack.data and texts.name not in attack.data:
                        continue
                    one = seed if grid.victim_seed is None else grid.victim_seed
                    victim = _victim(grid, model, texts, attack, one, contents)
                    found += _cells(grid, victim, seed, contents.of_defender(texts))
    _check_names(found)
    return found


def _check_names(cells: Sequence[CellOrder]) -> None:
    """Refuse two cells or two victims of one name: names are joined with '-', and may hold it."""
    known: dict[tuple[str, str], tuple[str, ...]] = {}
    for cell in cells:
        twin, attack = cell.victim.twin, cell.victim.attack
        place = (twin.model.name, twin.texts.name, attack.name)
        named = (("cells", cell.id, (*place, cell.method.name)), ("victims", cell.victim.id, place))
        for kind, name, parts in named:
            if known.setdefault((kind, name.casefold()), parts) != parts:
                raise UserError(
                    f"two {kind} are called {name}",
                    "give models, data, attacks and methods other names",
                )


def _victim(
    grid: Grid, model: Model, texts: Texts, attack: Backdoor, seed: int, contents: Contents
) -> VictimOrder:
    clean = contents.of_texts(model, texts)
    if attack.given is not None:
        held = {"twin": attack.twin, "given": attack.given}
        hashes = {name: contents.of_folder(folder, texts) for name, folder in held.items()}
        beside = (*clean, ("twin", hashes["twin"]))
        twin = TwinOrder(model, texts, Schedule(0), None, seed, grid.computing, beside, attack.twin)
        own = (*contents.of_attack(attack, texts), ("given", hashes["given"]))
        return VictimOrder(twin, attack, own)
    planted = configure(ATTACKS[attack.method], attack.fields)
    schedule = Schedule(planted.epochs, planted.lr)
    twin = TwinOrder(model, texts, schedule, grid.victim, seed, grid.computing, clean)
    return VictimOrder(twin, attack, contents.of_attack(attack, texts))


def _cells(grid: Grid, victim: VictimOrder, seed: int, clean: str | None) -> Iterator[CellOrder]:
    """Yield a victim's cells in the recipe's order."""
    made: dict[str, CellOrder] = {}
    chosen = [one for one in grid.methods if one.seeds is None or seed in one.seeds]
    for method in sorted(chosen, key=lambda one: one.variation.match is not None):
        bound, match = grid.defending.of(method.variation), method.variation.match
        like = made[match] if match is not None else None
        drawn = None if grid.victim_seed is None else seed
        made[method.name] = CellOrder(victim, method, bound, grid.mark, like, None, clean, drawn)
    yield from (made[method.name] for method in chosen)


def selected(cells: list[CellOrder], only: str | None) -> list[CellOrder]:
    """Return the cells whose name holds the pattern, or matches it where it has ``*``.

    With those whose number of heads they take.
    """
    if not only:
        return cells
    pattern = only if any(sign in only for sign in "*?[") else f"*{only}*"
    chosen = [cell for cell in cells if fnmatch.fnmatchcase(cell.id, pattern)]
    names = {one.id for cell in chosen for one in (cell, cell.like) if one is not None}
    return [cell for cell in cells if cell.id in names]
