"""A purification written down: a TOML file that ``purify`` and ``defend`` take with --recipe.

    strategy = "gradient"        # or: defense = "pure"
    max_drop = 0.02              # or: min_accuracy = 0.85
    prune_drop = 0.1             # while heads are chosen; without: the same
    start = "classifier"
    units = "heads"
    seed = 11

    [fields]                     # of the strategy or defense
    step = 6

    [heal]                       # a defense brings its own healing
    epochs = 4
    lr = 1.5e-4
    on = "clean"                 # or "probes"
    halvings = 3                 # how often it may begin anew at half the rate
    attention = 0.15             # weight of PURE's attention penalty

Everything may be left out but the method. What is given on the command line wins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headsweep.document import Section, read_document
from headsweep.errors import UserError, lookup
from headsweep.heal.fine_tune import FineTune
from headsweep.prune.strategies import STRATEGIES
from headsweep.purification.baselines import DEFENSES
from headsweep.purification.gone import HEALING, refuse_gone, refuse_gone_method
from headsweep.settings import configure

METHODS: dict[str, dict[str, Any]] = {
    "strategy": STRATEGIES,
    "defense": DEFENSES,
}
OF_A_GRID = ("seeds", "model", "data", "attack", "method")  # what a recipe of `bench` has
COMMANDS = {"strategy": "purify", "defense": "defend"}
BOUNDS = {"max_drop": float, "min_accuracy": float}
HEAL: dict[str, tuple[str, type]] = {  # field of FineTune: option, kind
    "epochs": ("heal_epochs", float),
    "lr": ("heal_lr", float),
    "halvings": ("heal_halvings", int),
    "on": ("heal_with", str),
    "attention": ("attention_penalty", float),
}
OWN: dict[str, type] = {
    "prune_drop": float,
    "start": str,
    "units": str,
    "ffn_groups": int,
}  # of a strategy only


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
    ffn_groups: int | None = None
    heal_epochs: float | None = None
    heal_lr: float | None = None
    heal_with: str | None = None
    prune_drop: float | None = None
    attention_penalty: float | None = None
    heal_halvings: int | None = None

    def over(self, recipe: Asked, given: Collection[str]) -> Asked:
        """Return these options, those not ``given`` on the command line taken from a recipe.

        Fields add up, the later ones win; the recipe's are left out with another method, and
        its bound with a bound of one's own.
        """
        left = {
            name: value
            for name, value in vars(recipe).items()
            if value is not None and name not in given and name != "fields"
        }
        left = {name: x for name, x in left.items() if name not in self._unhealed(recipe, given)}
        if set(BOUNDS) & set(given):
            left = {name: value for name, value in left.items() if name not in BOUNDS}
        elif recipe.min_accuracy is not None or recipe.max_drop is not None:
            left |= {"max_drop": recipe.max_drop, "min_accuracy": recipe.min_accuracy}
        same = "method" not in given or self.method == recipe.method
        before = {f.partition("=")[0].strip(): f for f in (recipe.fields if same else ())}
        own = {f.partition("=")[0].strip(): f for f in self.fields}
        return replace(self, **left, fields=tuple((before | own).values()))

    def _unhealed(self, recipe: Asked, given: Collection[str]) -> set[str]:
        """Return what does not hold of a recipe's healing beside the options given."""
        options = {option for option, _ in HEAL.values()}
        other = "start" in given and self.start != (recipe.start or "classifier")
        itself = "method" in given and self.method == "auto"  # auto tries healings
        if other or itself or ("heal_epochs" in given and self.heal_epochs == 0):
            return options
        return {"heal_halvings"} if "heal_lr" in given else set()


def read_recipe(path: Path, kind: str, more: Mapping[str, Any] | None = None) -> Asked:
    """Read a recipe.

    Args:
        path: the TOML file.
        kind: ``strategy`` (for ``purify``) or ``defense`` (for ``defend``).
        more: methods by name beside those of the table.

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
    own = (*OWN, "heal") if kind == "strategy" else ()
    document.only(kind, "fields", "seed", *BOUNDS, *own)
    if set(BOUNDS) <= set(document.values):
        raise document.mistake("min_accuracy", "a recipe has one bound", "drop max_drop or this")
    name = document.need(kind, str)
    refuse_gone_method(document, kind, name)
    with document.blamed(kind):
        if name in METHODS[other] and name not in METHODS[kind]:
            raise UserError(
                f"'{name}' is a {other}", f'{other} = "{name}", for headsweep {COMMANDS[other]}'
            )
        method = lookup(name, METHODS[kind] | dict(more or {}), kind)
    fields = document.section("fields")
    fields.filled(lambda settings: configure(method, settings))
    values: dict[str, Any] = {key: document.get(key, wanted) for key, wanted in BOUNDS.items()}
    if own:
        values |= {key: document.get(key, wanted) for key, wanted in OWN.items()}
        values |= _healing(document)
    return Asked(
        method=name, fields=tuple(fields.settings()), seed=document.get("seed", int), **values
    )


def _healing(document: Section) -> dict[str, Any]:
    heal = document.section("heal")
    refuse_gone(heal, HEALING)
    heal.only(*HEAL)
    heal.filled(lambda settings: configure(FineTune, settings))
    return {option: heal.get(key, kind) for key, (option, kind) in HEAL.items()}
