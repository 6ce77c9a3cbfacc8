"""``auto`` as a method of a grid: which of its fields a recipe sets, and what a cell keeps of it.

Its choice depends on the time that trials take, so it may differ from machine to machine and with
what else runs there: unlike every other cell, one of ``auto`` is not the same wherever it is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from headsweep.auto.automatic import purify_automatically
from headsweep.auto.candidates import Auto
from headsweep.document import Section
from headsweep.purification.material import Sources
from headsweep.purification.method import Method
from headsweep.purification.plan import Plan
from headsweep.purification.purified import Purified
from headsweep.settings import describe
from headsweep.triggers.probe_families import RuleProber

AUTO = Auto.name
FIELDS = ("budget_seconds", "canaries", "texts", "held")


def check_fields(section: Section) -> None:
    """Raise UserError for a field of ``auto`` that a recipe cannot set."""
    section.only(*FIELDS)


def described(strategy: Any) -> dict[str, Any]:
    """Return a strategy, ``auto`` included, as JSON values: what decides what it does."""
    if strategy.name != AUTO:
        return describe(strategy)
    fields = {name: getattr(strategy, name) for name in FIELDS}
    tried = [one.to_json() for one in strategy.candidates]
    return {"name": AUTO, "fields": fields | {"candidates": tried} | asdict(strategy.planting)}


def automatically(folder: Path, clean: Sources, auto: Auto, method: Method, plan: Plan) -> Purified:
    """Purify as ``auto`` chooses; the families of the plan's probes are its to use, and no other.

    Raises:
        UserError: it cannot be done.
        NothingPruned: no head could go within the bound.

    """
    assert isinstance(plan.prober, RuleProber)  # check_probes has seen to it
    asked = replace(auto, families=plan.prober.families)
    return purify_automatically(folder, clean, asked, method, replace(plan, prober=None))


def chosen(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a cell keeps of the choice that a purification made; nothing where none was."""
    if "auto" not in manifest:
        return {}
    return {"auto": manifest["auto"], "healing": _plain(manifest["heal"])}


def _plain(healing: Mapping[str, Any]) -> dict[str, Any]:
    return {name: healing[name] for name in ("name", "fields")}
