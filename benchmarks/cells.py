"""A cell of a benchmark: one JSON file, which does not say where things lay on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headsweep.drafts import write_json
from headsweep.export.provenance import environment


def write_cell(file: Path, form: Mapping[str, Any], places: Mapping[str, Path]) -> None:
    """Write a cell with the environment that it was made in; ``places``: words for folders."""
    told = json.dumps(dict(form) | {"environment": environment()})
    for word, place in places.items():
        told = told.replace(str(place), word)
    write_json(file, json.loads(told))
