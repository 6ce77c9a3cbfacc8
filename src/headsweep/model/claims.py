"""What a folder says of itself: the word of whoever made it, which nothing is measured by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headsweep.bounded import MIDDLE, table_of
from headsweep.drafts import COMPACT, MANIFEST
from headsweep.errors import UserError, shown
from headsweep.model.families import Adapter, adapter_from
from headsweep.model.files import inside, there
from headsweep.model.mask import QUERIES, HeadMask, Units


def check_noted(source: str) -> None:
    """Refuse a folder whose weights are one part of a model, or cut as no configuration says."""
    if _cut_unevenly(Path(source)):
        raise UserError(
            f"{source}: a compact model of shapes that its configuration does not say",
            "give the folder that it was made from; evaluate, probe, export and headsweep.load "
            "take this one",
        )
    if claimed(source).get("members"):
        raise UserError(
            f"{source}: an ensemble of head masks, whose predictions an older version averaged",
            "purify its suspect again: this version writes one mask",
        )


def _cut_unevenly(folder: Path) -> bool:
    if not folder.is_dir() or not there(folder, COMPACT):
        return False
    return table_of(inside(folder, COMPACT), MIDDLE, "make it again").get("plain") is not True


def claimed(source: str | Path) -> dict[str, Any]:
    """Return what a folder's own manifest says, if it has one: the word of whoever made it.

    Nothing that a model is measured by may come from here: neither an adapter nor a mask.
    """
    folder = Path(source)
    if not folder.is_dir() or not there(folder, MANIFEST):
        return {}
    return table_of(inside(folder, MANIFEST), MIDDLE, "the folder is damaged: get it again")


def claimed_units(source: str | Path) -> Units:
    """Return query heads, and FFN groups as many as a manifest says were pruned of, to look at."""
    try:
        pruned = HeadMask.from_json(claimed(source).get("mask") or {}).units
    except (UserError, TypeError, AttributeError):
        return QUERIES
    return replace(pruned, heads=True, queries=True)


def claims(source: str | Path) -> tuple[str, ...]:
    """Return in a line what a folder says of itself, if it does."""
    form = claimed(source)
    if not form:
        return ()
    units, strategy = form.get("pruned_units"), form.get("strategy")
    count = len(units) if isinstance(units, list) else "an unknown number of"
    name = strategy.get("name") if isinstance(strategy, dict) else None
    return (
        f"by its own {MANIFEST}, {count} units were pruned, with {shown(name)}: that is the word "
        "of whoever made it, which `headsweep verify` checks",
    )


def claimed_adapter(form: Mapping[str, Any]) -> Adapter | None:
    """Return the adapter that a manifest describes, if it does; raises UserError."""
    told = form.get("adapter")
    return None if not told else adapter_from(told, f"{MANIFEST}, adapter")
