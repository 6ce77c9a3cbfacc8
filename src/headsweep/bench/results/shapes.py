"""What a cell and a victim must hold to be whole: by it a damaged file is told from a result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from headsweep.bench.results.packing import Packed
from headsweep.model.mask import rows_by_kind

CELL_FORMAT = "headsweep.cell/1"
VICTIM_FORMAT = "headsweep.victim/1"
Check = Callable[[Any], bool]


def fits(value: Any, shape: Any) -> bool:
    """Tell whether a JSON value has a shape.

    A shape is a type, a check, a list of the one shape that elements have, or a mapping of keys to
    shapes; a key that ends in ``?`` may be missing or null. Keys beyond those do not matter.
    """
    if isinstance(shape, type):
        return isinstance(value, shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(one, shape[0]) for one in value)
    if isinstance(shape, Mapping):
        return isinstance(value, dict) and all(_holds(value, *item) for item in shape.items())
    return bool(shape(value))


def _holds(value: Mapping[str, Any], key: str, shape: Any) -> bool:
    name = key.removesuffix("?")
    if key != name and value.get(name) is None:
        return True
    return name in value and fits(value[name], shape)


def number(value: Any) -> bool:
    """Tell whether a value is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def packed(value: Any) -> bool:
    """Tell whether a value is answers as ``Packed`` writes them."""
    try:
        Packed.from_json(value)
    except (KeyError, TypeError, ValueError):
        return False
    return True


def _trial(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 5 and all(map(number, value[1:4]))


def _mask(value: Any) -> bool:
    rows = [*rows_by_kind(value).values()] if isinstance(value, dict) else []
    return bool(rows) and all(
        isinstance(own, list) and all(isinstance(row, list) and row for row in own) for own in rows
    )


def _seconds(value: Any) -> bool:
    return fits(value, {"all": number}) and all(map(number, value.values()))


def _either(*known: str) -> Check:
    return lambda value: value in known


RATE = {"value": number, "low": number, "high": number}
MEASURES = dict.fromkeys(("accuracy", "lfr", "cfr", "matched_lfr", "excess_lfr"), RATE)
METHOD = {"name": str, "fields": dict}
SECONDS = {"seconds": _seconds, "cpu_seconds": number}
NAMES = ("id", "key", "victim", "victim_key", "model", "data", "attack", "method", "base", "kind")
ACCURACY = {"accuracy": number}
CELL = (
    dict.fromkeys((*NAMES, "code", "commit", "status"), str)
    | SECONDS
    | {
        "format": _either(CELL_FORMAT),
        "seed": int,
        "threads": int,
        "recipe": {"name": str, "sha256": str, "variables?": [str]},
        "environment": dict,
        "strategy?": METHOD,
        "healing": METHOD,
        "before": MEASURES,
        "pruned?": MEASURES,
        "after": MEASURES,
        "answers": {"after": packed},
        "peak_memory_mib?": number,
        "units?": int,
        "pruned_count?": int,
        "bound?": {"min_accuracy": number, "while_pruning?": number},
        "validation?": {"after": ACCURACY},
        "mask?": _mask,
        "scores?": [[number]],
        "path?": [_trial],
        "shared_scores?": [{"seconds": number, "cpu_seconds": number}],
    }
)
VICTIM = {
    "format": _either(VICTIM_FORMAT),
    "id": str,
    "key": str,
    "evaluation": {"twin": MEASURES, "suspect": MEASURES},
    "answers": {"twin": packed},
    "seconds": {"all": number},
    "peak_memory_mib?": number,
}
