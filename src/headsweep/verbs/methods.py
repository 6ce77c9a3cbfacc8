"""Methods by the option that takes them (strategies, attacks, triggers, ...), looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from headsweep.errors import UserError, lookup
from headsweep.purification.gone import METHODS as GONE

T = TypeVar("T")


def all_methods() -> dict[str, Mapping[str, Any]]:
    """Return the tables of methods by the option that takes them."""
    from headsweep.attacks import ATTACKS
    from headsweep.judge.detectors import DETECTORS
    from headsweep.prune.strategies import STRATEGIES
    from headsweep.purification.baselines import DEFENSES
    from headsweep.purification.method import HOT
    from headsweep.triggers import TRIGGERS

    return {
        "purify --strategy": STRATEGIES,
        "purify --heal": {HOT.name: HOT},
        "defend --with": DEFENSES,
        "detect --with": DETECTORS,
        "attack --with": ATTACKS,
        "trigger, attack --trigger": TRIGGERS,
    }


def method_named(name: str, table: Mapping[str, T], kind: str) -> T:
    """Return a method; raises UserError, which says which option takes the name if another does."""
    if name in GONE:
        raise UserError(f"{kind} '{name}' is gone", GONE[name])
    taken = all_methods()
    for option, methods in taken.items():
        if name not in table and name in methods:
            raise UserError(
                f"'{name}' is no {kind}", f"headsweep {option.partition(', ')[0]} {name}"
            )
    return lookup(name, table, kind)
