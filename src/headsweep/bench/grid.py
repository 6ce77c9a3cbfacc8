"""The recipe of a grid: model x data x attack x method x seed, read from TOML.

The tables and keys are in docs/recipes.md. ``${name}`` anywhere in a text stands for a
variable of the table ``[variables]``; one without a default (an empty text) must be given.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from headsweep.bench.backdoor import Backdoor, read_backdoor
from headsweep.bench.corpus import Texts, read_texts
from headsweep.bench.matching import check_match
from headsweep.bench.probing import check_probes
from headsweep.bench.variation import KEYS, Variation, healed, healing_of, read_variation
from headsweep.document import Section, read_document
from headsweep.errors import UserError, lookup
from headsweep.heal.fine_tune import FineTune
from headsweep.model.mask import HEADS
from headsweep.model.runtime import Precision, Runtime
from headsweep.prune.strategies import STRATEGIES
from headsweep.purification import method as purification
from headsweep.purification.baselines import DEFENSES
from headsweep.purification.bound import USUAL_DROP, Bound
from headsweep.purification.gone import METHODS as GONE
from headsweep.purification.recipe import COMMANDS, check_used
from headsweep.purification.recipe import METHODS as NAMED
from headsweep.settings import checked, configure, pair
from headsweep.task.training import Schedule

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Model:
    """A model under attack: a folder, a Hub name, ``packaged:minilm`` or ``made:tiny``."""

    name: str
    source: str


@dataclass(frozen=True)
class Method:
    """A strategy or a defense with its fields; ``seeds`` limits it to some of the grid's."""

    name: str
    kind: Literal["strategy", "defense"]
    method: str
    fields: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = None
    variation: Variation = Variation()

    def made(self, heal: FineTune, bound: Bound) -> purification.Method:
        """Return what is run: strategies are healed with ``heal``, defenses bring their own."""
        if self.kind == "strategy":
            strategy = configure(STRATEGIES[self.method], self.fields)
            held = bound if strategy.needs.pruning else replace(bound, prune_drop=None)
            return purification.Method(strategy, heal, self.variation.units, held)
        made: purification.Method = configure(DEFENSES[self.method], self.fields).method()
        return made.within(bound)

    @property
    def prunes_heads(self) -> bool:
        """True where it prunes heads, and nothing else."""
        made = self.made(FineTune(), Bound())
        return made.pruning.needs.pruning and made.units == HEADS


@dataclass(frozen=True)
class Defending:
    """What every method is bound to."""

    max_drop: float | None = 0.02
    min_accuracy: float | None = None
    start: Literal["classifier", "encoder"] = "classifier"
    heal: FineTune = FineTune()
    prune_drop: float | None = None

    @property
    def bound(self) -> Bound:
        """The bound on accuracy, the same for every method."""
        drop = USUAL_DROP if self.max_drop is None else self.max_drop
        return Bound(drop, self.min_accuracy, self.prune_drop)

    @property
    def decides(self) -> dict[str, Any]:
        """Return what decides results, healing apart; what is not set changes no key."""
        found = asdict(self) | {"heal": None}
        return {name: x for name, x in found.items() if name != "prune_drop" or x is not None}

    def of(self, variation: Variation) -> Defending:
        """Return what one method is bound to, with what it has of its own."""
        deeper = self.prune_drop if variation.prune_drop is None else variation.prune_drop
        own = replace(self, heal=healed(self.heal, variation.heal), prune_drop=deeper)
        if variation.max_drop is None:
            return own
        return replace(own, max_drop=variation.max_drop, min_accuracy=None)


@dataclass(frozen=True)
@checked
class Computing:
    """How every cell computes: the same on any engine."""

    threads: int = 1
    device: str = "cpu"
    precision: Precision = "auto"
    batch_size: int = 32
    max_length: int = 128

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UserError(f"threads = {self.threads}", "a cell needs at least one thread")
        _ = self.runtime  # made here: it refuses what no machine takes
        if self.device != "auto":
            try:
                torch.device(self.device)
            except RuntimeError as error:
                raise UserError(f"'{self.device}' is no device", "such as cpu, cuda:1") from error

    @property
    def runtime(self) -> Runtime:
        """What computes a cell, in one process: a cell is a job already."""
        return Runtime(self.device, self.batch_size, self.max_length, self.precision, jobs=1)


@dataclass(frozen=True)
class RecipeMark:
    """What a cell keeps of its recipe.

    Attributes:
        name: the recipe's.
        sha256: of its contents, before variables are put in.
        variables: those that were given or had to be; never their values, which may be paths.

    """

    name: str
    sha256: str
    variables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A whole recipe; with ``victim_seed``, every victim is the one of that seed."""

    mark: RecipeMark
    seeds: tuple[int, ...]
    models: tuple[Model, ...]
    data: tuple[Texts, ...]
    attacks: tuple[Backdoor, ...]
    methods: tuple[Method, ...]
    victim: Schedule | None
    defending: Defending
    computing: Computing
    victim_seed: int | None = None


def read_grid(path: Path, given: Sequence[str] = ()) -> Grid:
    """Read a recipe; ``given`` are variables as ``name=value``.

    Raises:
        UserError: whatever is unknown, missing or does not fit, with its line.

    """
    document = read_document(path)
    _refuse_single(path, document)
    sha256 = hashlib.sha256(repr(document.values).encode()).hexdigest()
    document = replace(document, values=_substituted(document, given))
    tables = ("model", "data", "attack", "method", "victim", "defend", "compute", "variables")
    document.only("name", "seeds", *tables)
    seeds = document.need("seeds", list)
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise document.mistake("seeds", f"seeds cannot be {seeds}", "for example [11, 12, 13]")
    victim = document.section("victim")
    victim.only("epochs", "lr", "seed")
    epochs = victim.get("epochs", float, 3.0)
    with document.blamed("name"):
        _check_name(document.need("name", str))
    grid = Grid(
        RecipeMark(document.need("name", str), sha256, _open(document, given)),
        tuple(dict.fromkeys(seeds)),
        tuple(_all(document, "model", _model)),
        tuple(_all(document, "data", read_texts)),
        tuple(_all(document, "attack", read_backdoor)),
        tuple(_all(document, "method", _method)),
        _schedule(victim) if epochs else None,
        _defending(document.section("defend")),
        _computing(document.section("compute")),
        victim.get("seed", int),
    )
    for section, attack in zip(document.sections("attack"), grid.attacks, strict=True):
        for name in attack.data:
            with section.blamed("data"):
                lookup(name, {texts.name: 0 for texts in grid.data}, "data set")
        for texts in grid.data:
            if attack.data and texts.name not in attack.data:
                continue
            with section.blamed("target"):
                lookup(attack.target, dict.fromkeys(texts.labels), f"label of '{texts.name}'")
    healings = [grid.defending.of(method.variation).heal for method in grid.methods]
    _check_healing(document.section("defend"), *healings)
    for section, method in zip(document.sections("method"), grid.methods, strict=True):
        own = grid.defending.of(method.variation)
        wanted = method.made(own.heal, own.bound).needs_probes
        check_probes(section, method.variation.probes, wanted, grid.attacks)
        check_match(section, method, grid.methods, grid.seeds)
        _check_healing(section, own.heal)
        for seed in method.seeds or ():
            if seed not in grid.seeds:
                raise section.mistake("seeds", f"seed {seed} is not one of the grid's")
    return grid


def _check_healing(section: Section, *made: FineTune) -> None:
    """Refuse a field of a table's ``heal`` that none of the healings it makes uses."""
    heal = section.section("heal")
    for name, value in map(pair, heal.settings()):
        if all(name in one.idle for one in made):
            with heal.blamed(name):
                check_used(made[0], {name: value})


def _schedule(victim: Section) -> Schedule:
    values = {key: value for key, value in victim.values.items() if key != "seed"}
    return replace(victim, values=values).filled(lambda s: configure(Schedule, s))


def _refuse_single(path: Path, document: Section) -> None:
    """Raise UserError for a recipe of one purification."""
    for kind, command in COMMANDS.items():
        if kind in document.values:
            raise UserError(
                f"{path}: this is the recipe of one purification, not of a grid",
                f"headsweep {command} MODEL --recipe {path} --data FILE --out DIR",
            )


def _open(document: Section, given: Sequence[str]) -> tuple[str, ...]:
    """Return the variables that the recipe leaves empty, and those that were given."""
    own = document.section("variables").values
    names = {setting.partition("=")[0] for setting in given}
    return tuple(name for name, value in own.items() if not value or name in names)


def _substituted(document: Section, given: Sequence[str]) -> dict[str, Any]:
    own = document.section("variables")
    values = {key: own.get(key, str, "") or "" for key in own.values}
    for setting in given:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"'{setting}' is not of the form name=value", "--set corpus=FOLDER")
        lookup(name, values, f"variable of {document.source}")
        values[name] = value

    def fill(found: Any) -> Any:
        if isinstance(found, dict):
            return {key: fill(value) for key, value in found.items()}
        if isinstance(found, list):
            return [fill(value) for value in found]
        return VARIABLE.sub(value_of, found) if isinstance(found, str) else found

    def value_of(match: re.Match[str]) -> str:
        value = lookup(match[1], values, f"variable of {document.source}")
        if not value:
            raise own.mistake(match[1], f"'{match[1]}' has no value", f"--set {match[1]}=...")
        return value

    return {key: fill(value) if key != "variables" else value
            for key, value in document.values.items()}  # fmt: skip


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' is no name", "letters, digits, '.', '_', '-'")


def _all(document: Section, key: str, read: Any) -> Iterator[Any]:
    seen: set[str] = set()
    sections = document.sections(key)
    if not sections:
        raise UserError(f"{document.source}: no [[{key}]]", "a grid needs at least one")
    for section in sections:
        made = read(section)
        with section.blamed("name"):
            _check_name(made.name)
            if made.name in seen:
                raise UserError(f"two of [[{key}]] are called '{made.name}'", "give each a name")
        seen.add(made.name)
        yield made


def _model(section: Section) -> Model:
    section.only("name", "source")
    return Model(section.need("name", str), section.need("source", str))


def _method(section: Section) -> Method:
    section.only("name", "strategy", "defense", "fields", "seeds", *KEYS)
    named = [kind for kind in NAMED if kind in section.values]
    if len(named) != 1:
        raise section.mistake(None, "a method is one strategy or one defense")
    kind, method = named[0], section.need(named[0], str)
    with section.blamed(kind):
        if method in GONE:
            raise UserError(f"{kind} '{method}' is gone", GONE[method])
        chosen = lookup(method, NAMED[kind], kind)
    fields = section.section("fields")
    fields.filled(lambda settings: configure(chosen, settings))
    seeds = section.get("seeds", list)
    name = section.get("name", str, method) or ""
    settings = tuple(fields.settings())
    variation = read_variation(section, kind)
    limits = tuple(seeds) if seeds else None
    made = Method(name, kind, method, settings, limits, variation)  # type: ignore[arg-type]
    with section.blamed("fields"):
        bound = made.made(FineTune(), Bound()).bound
    if bound is None and variation.max_drop is not None:
        raise section.mistake("max_drop", f"nothing holds '{name}' to a bound", "leave it out")
    return made


def _defending(section: Section) -> Defending:
    section.only("max_drop", "min_accuracy", "prune_drop", "start", "heal")
    lowest, drop = section.get("min_accuracy", float), section.get("max_drop", float)
    if lowest is not None and drop is not None:
        raise section.mistake("min_accuracy", "there is one bound", "drop max_drop or this")
    start = section.get("start", str, "classifier") or ""
    with section.blamed("start"):
        lookup(start, {"classifier": 0, "encoder": 0}, "start")
    if lowest is None and drop is None:
        drop = Defending.max_drop
    healing = healing_of(section.section("heal"))
    deeper = section.get("prune_drop", float)
    for key, value in (("max_drop", drop), ("min_accuracy", lowest), ("prune_drop", deeper)):
        with section.blamed(key):
            Bound(**{key: value})
    return Defending(drop, lowest, start, healing, deeper)  # type: ignore[arg-type]


def _computing(section: Section) -> Computing:
    section.only("threads", "device", "precision", "batch_size", "max_length")
    return section.filled(lambda settings: configure(Computing, settings))
