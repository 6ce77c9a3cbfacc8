"""A head mask that was given: applied as it is, or taken up from an interrupted run.

A run keeps its mask as soon as it is found, with how it was found, so that healing can begin there
again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from headsweep import bounded
from headsweep.errors import UserError
from headsweep.foreign import one_line
from headsweep.model.mask import ATTENTION, READ, HeadMask
from headsweep.prune.choice import Choice, Needs
from headsweep.prune.view import DefenderView

KEPT = "interrupted_run"  # marks a mask file of a run
LONGEST = 100  # characters of a strategy's name


@dataclass(frozen=True)
class Found:
    """How an interrupted run found its mask: what the manifest is to say of the search."""

    strategy: dict[str, Any]
    steps: list[dict[str, Any]]
    scores: list[list[float]] | None
    command: str
    prune_drop: float | None = None

    @classmethod
    def of(cls, text: str) -> Found | None:
        """Read it from a mask file; None where the file holds a mask only."""
        form = json.loads(text)
        if not isinstance(form, Mapping) or KEPT not in form:
            return None
        try:
            search = form["search"]
            made = cls(
                form["strategy"],
                search["steps"],
                search["scores"],
                form[KEPT],
                form.get("prune_drop"),
            )
            _check(made)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the kept mask lacks what was known of its search: {error}",
                f"remove '{KEPT}' from the file to use it as a plain mask",
            ) from error
        return made

    def to_json(self) -> dict[str, Any]:
        """Return the form that ``of`` reads, beside the mask's own."""
        search = {"steps": self.steps, "scores": self.scores}
        own = {"strategy": self.strategy, "search": search}
        return {KEPT: self.command, "prune_drop": self.prune_drop} | own


def _check(found: Found) -> None:
    """Refuse what could not stand in a manifest; raises KeyError, TypeError or ValueError."""
    name, scores = found.strategy["name"], found.scores
    if not isinstance(name, str) or len(name) > LONGEST or name != one_line(name):
        raise ValueError("the name of a strategy is a short line")
    if not isinstance(found.command, str) or not isinstance(found.steps, list):
        raise TypeError("a command is a text, and steps are a list")
    for row in scores or ():
        if not isinstance(row, list) or not all(map(math.isfinite, row)):
            raise ValueError("scores are lists of finite numbers")


@dataclass(frozen=True)
class Given:
    """Apply a head mask, do not search.

    Attributes:
        mask: the mask.
        found: how an interrupted run found it; None: not known.
        file: where it stands, for errors.

    """

    name: ClassVar[str] = "given mask"
    source: ClassVar[str] = "a mask file"
    mask: HeadMask
    found: Found | None = None
    file: str = Needs.mask_file

    @property
    def needs(self) -> Needs:
        """No search, and a model that the mask fits."""
        return Needs(searches=0, mask=self.mask, mask_file=self.file)

    def choose(self, view: DefenderView) -> Choice:
        """Return the mask; raises UserError where it is another model's."""
        self.needs.check(view.layout)
        return Choice(self.mask, earlier=self._earlier())

    def _earlier(self) -> dict[str, Any]:
        if self.found is None:
            return {"strategy": {"name": self.name, "fields": {}}, "scores": None, "steps": []}
        found = self.found
        return {
            "strategy": found.strategy,
            "scores": found.scores,
            "steps": found.steps,
            "note": f"the heads were chosen by an interrupted run: {found.command}",
        }


def mask_in(path: Path) -> tuple[HeadMask, Found | None, str]:
    """Return a file's head mask, how it was found where that is kept with it, and its path.

    Raises:
        UserError: there is none in it.

    """
    fix = f"a mask is JSON of the format {READ}, as under 'mask' in headsweep.json"
    text = bounded.text_of(path, fix=fix)
    try:
        form = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a head mask: it is not JSON", fix) from error
    if not isinstance(form, dict) or form.get("format") not in [*ATTENTION]:
        raise UserError(f"{path}: not a head mask", fix)
    try:
        return HeadMask.from_json(form), Found.of(text), str(path)
    except UserError as error:
        raise UserError(f"{path}: {error.what}", error.fix) from error
