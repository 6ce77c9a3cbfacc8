"""A cell of a benchmark: one JSON file, which does not say where things lay on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headsweep.drafts import write_json
from headsweep.export.provenance import environment


def write_cell(file: Path, form: Mapping[str, Any], places: Mapping[str, Path]) -> None:
    """Write a cell with the environment that it was made in; ``places``: words for folders."""
    named = {str(path): word for word, place in places.items() for path in (place, place.resolve())}
    write_json(file, _told(dict(form) | {"environment": environment()}, named))


def _told(form: Any, named: Mapping[str, str]) -> Any:
    """Return JSON values with words in the place of folders, and of what lies in them."""
    if isinstance(form, Mapping):
        return {key: _told(one, named) for key, one in form.items()}
    if isinstance(form, list | tuple):
        return [_told(one, named) for one in form]
    return " ".join(_word(one, named) for one in form.split(" ")) if isinstance(form, str) else form


def _word(text: str, named: Mapping[str, str]) -> str:
    for folder, word in sorted(named.items(), key=lambda pair: -len(pair[0])):
        if text == folder or text.startswith(f"{folder}{os.sep}"):
            return word + text[len(folder) :]
    return text
