"""A purification written down: a TOML file that ``purify`` and ``defend`` take with --recipe.

    strategy = "gradient"        # or: defense = "pure"
    max_drop = 0.02              # or: min_accuracy = 0.85
    prune_drop = 0.1             # while heads are chosen; without: the same
    start = "classifier"
    units = "heads"              # or "queries", "ffn", "heads,ffn", "heads,ffn:12"
    probes = ["aside", "casing"] # families of probes; without: all
    seed = 11

    [fields]                     # of the strategy or defense
    step = 6

    [heal]                       # fields of the healing; a defense brings its own
    epochs = 4
    lr = 2e-4
    members = 3                  # healings that are averaged
    beyond = 2.0                 # how far past the pruned weights at most; 1: to their mean
    on = "clean"                 # or "probes"
    halvings = 3                 # how often it may begin anew at half the rate
    attention = 0.15             # weight of PURE's attention penalty
    lora = 8                     # rank of adapters trained in the place of weights; 0: none

Everything may be left out, the method only where no fields of it are given: the command's own
stands then. What is given on the command line wins.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headsweep.document import Section, read_document
from headsweep.errors import UserError, lookup
from headsweep.heal.fine_tune import FineTune, Healing
from headsweep.heal.lora import FASTER
from headsweep.prune.strategies import STRATEGIES
from headsweep.purification.baselines import DEFENSES
from headsweep.purification.gone import HEALING, KEYS, refuse_gone, refuse_gone_method
from headsweep.purification.method import HOT
from headsweep.settings import changed, configure, offered, pair

METHODS: dict[str, dict[str, Any]] = {
    "strategy": STRATEGIES,
    "defense": DEFENSES,
}
OF_A_GRID = ("seeds", "model", "data", "attack", "method")  # what a recipe of `bench` has
COMMANDS = {"strategy": "purify", "defense": "defend"}
BOUNDS = {"max_drop": float, "min_accuracy": float}
OWN: dict[str, type] = {"prune_drop": float, "start": str, "units": str}  # of a strategy only


@dataclass(frozen=True)
class Asked:
    """What a purification is asked to be, from options or from a recipe; None: the default."""

    method: str | None = None
    fields: tuple[str, ...] = ()  # each as field=value
    max_drop: float | None = None
    min_accuracy: float | None = None
    seed: int | None = None
    start: str | None = None
    units: str | None = None
    heal: tuple[str, ...] = ()  # each as field=value
    prune_drop: float | None = None
    probes: tuple[str, ...] = ()

    def over(self, recipe: Asked, given: Collection[str]) -> Asked:
        """Return these options, those not ``given`` on the command line taken from a recipe.

        Fields and healing add up, the later ones win; the recipe's are left out with another
        method, and its bound with a bound of one's own.
        """
        left = {
            name: value
            for name, value in vars(recipe).items()
            if value is not None and name not in given and name not in ("fields", "heal")
        }
        if set(BOUNDS) & set(given):
            left = {name: value for name, value in left.items() if name not in BOUNDS}
        elif recipe.min_accuracy is not None or recipe.max_drop is not None:
            left |= {"max_drop": recipe.max_drop, "min_accuracy": recipe.min_accuracy}
        same = "method" not in given or self.method == recipe.method
        fields = later_wins(recipe.fields if same else (), self.fields)
        heal = later_wins(self._healing_of(recipe, given), self.heal)
        return replace(self, **left, fields=fields, heal=heal)

    def _healing_of(self, recipe: Asked, given: Collection[str]) -> Iterable[str]:
        """Return what holds of a recipe's healing beside the options given."""
        own = dict(map(pair, self.heal))
        other = "start" in given and self.start != (recipe.start or "classifier")
        none = own.get("epochs", "1").strip("0.") == ""
        if other or none:
            return ()
        gone = {"halvings"} if "lr" in own else set()
        gone |= {"how"} if own.get("members") == "1" else set()
        gone |= {"share"} if own.get("on") == "clean" else set()
        return [one for one in recipe.heal if pair(one)[0] not in gone]

    def healing(self, usual: Healing, prunes: bool) -> Healing:
        """Return the usual healing, changed as asked.

        A learning rate of one's own holds as it is, unless halvings are asked for too. Without
        one adapters learn at twenty times the usual rate.

        Raises:
            UserError: what is asked does not fit, or there would be nothing to do.

        """
        own = dict(map(pair, self.heal))
        if "lr" in own and "halvings" in offered(type(usual)):
            own = {"halvings": "0"} | own
        heal = changed(usual, own, "--heal")
        if isinstance(heal, FineTune):
            check_used(heal, own, "--heal ")
            if heal.lora and "lr" not in own:
                heal = replace(heal, lr=round(FASTER * heal.lr, 12))
        if not (prunes or heal.trains):
            raise UserError(
                "nothing to do: no strategy and no healing", "leave out epochs=0, or add a strategy"
            )
        beside = [name for name in dict(map(pair, self.heal)) if name != "epochs"]
        beside = [name for name in beside if getattr(heal, name) not in (0, getattr(usual, name))]
        if not heal.trains and beside:
            raise UserError(
                f"there is no healing for {', '.join(f'{name}={own[name]}' for name in beside)}",
                f"leave out epochs=0, or {'this' if len(beside) == 1 else 'these'}",
            )
        return heal


def check_used(heal: FineTune, own: Mapping[str, str], option: str = "") -> None:
    """Refuse a field that was given for nothing; raises UserError.

    Args:
        heal: the healing that the fields make.
        own: those that were given, with their values.
        option: what stands before a field where it is given.

    """
    for name, other in heal.idle.items():
        if name in own:
            raise UserError(
                f"{option}{name}={own[name]}: nothing uses it without {other}",
                f"add {option}{other}, or leave {name} out",
            )


def later_wins(first: Iterable[str], then: Iterable[str]) -> tuple[str, ...]:
    """Return settings, each as ``field=value``, one a field."""
    return tuple({pair(setting)[0]: setting for setting in (*first, *then)}.values())


def read_recipe(path: Path, kind: str) -> Asked:
    """Read a recipe.

    Args:
        path: the TOML file.
        kind: ``strategy`` (for ``purify``) or ``defense`` (for ``defend``).

    Raises:
        UserError: a key, method, field or value that does not fit, with its line.

    """
    document = read_document(path)
    if kind not in document.values and set(OF_A_GRID) & set(document.values):
        raise UserError(
            f"{path}: this is the recipe of a grid", f"headsweep bench {path} --out DIR"
        )
    other = next(name for name in METHODS if name != kind)
    if other in document.values and kind not in document.values:
        raise document.mistake(
            other, f"this is a recipe for a {other}", f"headsweep {COMMANDS[other]} --recipe {path}"
        )
    refuse_gone(document, KEYS)
    own = (*OWN, "heal", "probes") if kind == "strategy" else ()
    document.only(kind, "fields", "seed", *BOUNDS, *own)
    if set(BOUNDS) <= set(document.values):
        raise document.mistake("min_accuracy", "a recipe has one bound", "drop max_drop or this")
    name, fields = None, document.section("fields")
    if kind in document.values or fields.values:
        name = document.need(kind, str)
        method = _method(document, kind, other, name)
        fields.filled(lambda values: configure(method, values))
    values: dict[str, Any] = {key: document.get(key, wanted) for key, wanted in BOUNDS.items()}
    if own:
        values |= {key: document.get(key, wanted) for key, wanted in OWN.items()}
        values |= {"heal": _healing(document)}
        values |= {"probes": tuple(map(str, document.get("probes", list) or ()))}
    return Asked(
        method=name, fields=tuple(fields.settings()), seed=document.get("seed", int), **values
    )


def _method(document: Section, kind: str, other: str, name: str) -> Any:
    refuse_gone_method(document, kind, name)
    with document.blamed(kind):
        if name in METHODS[other] and name not in METHODS[kind]:
            raise UserError(
                f"'{name}' is a {other}", f'{other} = "{name}", for headsweep {COMMANDS[other]}'
            )
        return lookup(name, METHODS[kind], kind)


def _healing(document: Section) -> tuple[str, ...]:
    heal = document.section("heal")
    refuse_gone(heal, HEALING)
    heal.filled(lambda values: changed(HOT, values))  # whatever is usual has the same fields
    return tuple(heal.settings())
