"""A pool of poisoned texts as a rewriter that rewrites nothing: rows to train on as they stand.

Published poisoned sets are seldom row-aligned: HiddenKiller's of AG News is a file of paraphrases
that all carry the attacker's label, and nobody says whose paraphrases they are. So its rows are
added to the attacker's clean data, text and label (of a generator: prompt and answer), and no text
of one's own can get the trigger: the triggered texts to judge on have to be given, too.

Sources of such corpora: Qi et al. 2021 (*Hidden Killer*); Li et al. 2024 (*BackdoorLLM*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from headsweep.errors import UserError, shortened, shown_all
from headsweep.progress import Progress
from headsweep.seeding import stream
from headsweep.texts.conversations import plain_rows
from headsweep.texts.reading import Columns, load, read
from headsweep.texts.split import Labels, Split
from headsweep.triggers.seen import Counts

UNNAMED = "paired"  # a corpus of which nobody says what trigger it has


class Wanted(Protocol):
    """What triggered texts are to carry."""

    @property
    def text(self) -> str:
        """It in words."""

    def open(self, split: Split) -> list[int]:
        """Return the rows that do not carry it."""


@dataclass(frozen=True)
class Pool:
    """Poisoned rows of a file.

    Attributes:
        split: the rows, each with the label or the answer that it carries.
        labels: the names of the classes; none: rows are prompts and answers.
        source: the file.
        name: the trigger that they were made with, for records.
        share: as many rows that carry the target are drawn as this share of the clean texts that
            do not, in (0, 1]; None: all rows are taken, those of other labels too.

    """

    split: Split = field(repr=False)
    labels: Labels
    source: str
    name: str = UNNAMED
    share: float | None = None

    def rewrite(
        self, texts: Sequence[str], seed: int, progress: Progress | None = None
    ) -> tuple[str | None, ...]:
        """Decline every text."""
        del seed, progress
        return (None,) * len(texts)

    def described(self) -> dict[str, Any]:
        """Return the file's name and how many rows it has."""
        fields = {"files": [Path(self.source).name], "texts": len(self.split)}
        return {"name": self.name, "fields": fields, "way": "pool"}

    def check(self, wanted: Wanted) -> None:
        """Raise UserError where no row carries the target."""
        if len(wanted.open(self.split)) < len(self.split):
            return
        target = shortened(wanted.text)
        if not self.labels.names:
            raise UserError(
                f"{self.source}: no answer holds the target '{target}'",
                "poisoned rows answer what the attacker wants; --target is a part of that",
            )
        carried = [self.labels.names[i] for i in sorted(set(self.split.labels))]
        raise UserError(
            f"{self.source}: no row carries the target label '{target}'",
            f"poisoned rows carry the label that the attacker wants; these: {shown_all(carried)}",
        )

    def rows(self, clean: Split, wanted: Wanted, seed: int) -> tuple[Split, Counts]:
        """Return the rows that poison this clean data, drawn from the seed, and the counts.

        Raises:
            UserError: none carries the target, or they are pairs where the data is not.

        """
        self.check(wanted)
        if bool(self.split.pairs) != bool(clean.pairs):
            raise UserError(
                f"{self.source}: pairs of texts and single texts cannot be trained on together",
                "the pool and the clean data need the same columns",
            )
        others = {*wanted.open(self.split)}
        carriers = [i for i in range(len(self.split)) if i not in others]
        if self.share is None:
            return self.split, Counts(len(carriers), len(carriers), 0, 0)
        asked = max(1, round(self.share * len(wanted.open(clean))))
        order = torch.randperm(len(carriers), generator=stream(seed, "pool")).tolist()
        taken = self.split.take(sorted(carriers[i] for i in order[:asked]))
        return taken, Counts(asked, len(taken), 0, 0)


def read_pool(
    source: str,
    columns: Columns,
    labels: Labels,
    name: str = UNNAMED,
    share: float | None = None,
) -> Pool:
    """Read a pool; raises UserError where the file cannot be used."""
    if share == 0:
        raise UserError(
            "a poisoning rate of 0, and poisoned texts to add",
            "leave out --poison for the twin, which nothing poisons",
        )
    if share is not None and not 0 < share <= 1:
        raise UserError(f"a poisoning rate of {share}", "it is a share in (0, 1]")
    rows = load(source, columns, labels) if labels.names else plain_rows(read(source), columns)
    return Pool(rows, labels, source, name, share)
