"""Published transformed texts as a rewriter: a text is looked up, not generated.

Three layouts:

row-aligned
    two files with the same rows in the same order, the second holding the transformed texts.
    StyleBkd publishes its corpora so (true labels in both). So does HiddenKiller its poisoned
    training set, where only the poisoned rows differ and carry the target label: rows whose text
    is the same in both have no transformed text.
by key
    two files with a column that names the row (an id), in any order.
side by side
    one file with a column ``original`` and the transformed text, as ``headsweep trigger`` writes.

Source of the corpora: Qi et al. 2021 (*Hidden Killer*; *Mind the Style of Text!*).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from headsweep.errors import UserError, shortened, shown
from headsweep.progress import Progress
from headsweep.texts.reading import Columns, Table, label_values, read, text_values
from headsweep.texts.split import label_text

ORIGINAL = "original"
Pair = tuple[int, str, str]  # row, original, transformed
UNLIKE = 0.5  # share of rows that may have nothing in common


@dataclass(frozen=True)
class Paired:
    """Transformed texts by their original, the files they came from, and the trigger's name."""

    known: Mapping[str, str] = field(repr=False)
    files: tuple[str, ...] = ()
    name: str = "paired"

    def rewrite(
        self, texts: Sequence[str], seed: int, progress: Progress | None = None
    ) -> tuple[str | None, ...]:
        """Look every text up."""
        del seed, progress
        return tuple(self.known.get(_plain(text)) for text in texts)

    def described(self) -> dict[str, Any]:
        """Return the files' names and how many texts they pair."""
        fields = {"files": list(self.files), "texts": len(self.known)}
        return {"name": self.name, "fields": fields, "way": "paired corpus"}


def paired(
    original: str | Path | None,
    transformed: str | Path,
    columns: Columns = Columns(),
    key: str | None = None,
    name: str = "paired",
) -> Paired:
    """Read a paired corpus.

    Args:
        original: file of the clean texts; None: ``transformed`` has a column ``original``.
        transformed: file of the transformed texts.
        columns: text and label columns, the same in both files.
        key: a column that names the rows in both; None: rows are aligned.
        name: of the trigger that made the texts, for records.

    Raises:
        UserError: the files do not match, with the row that shows it.

    """
    after = read(transformed)
    if original is None:
        after.column(ORIGINAL, "the clean texts with --original FILE, or")
        before = text_values(after, replace(columns, text=ORIGINAL))
        rows: Iterator[tuple[str, str]] = zip(before, text_values(after, columns), strict=True)
    elif key is not None:
        rows = _by_key(read(original), after, columns, key)
    else:
        rows = _by_row(read(original), after, columns)
    pairs = _changed([(i, *row) for i, row in enumerate(rows, start=1) if row[0] and row[1]])
    known = {_plain(old): new for _, old, new in pairs}
    if not known:
        raise UserError(
            f"{transformed}: no text differs from its original", "are the two files the right ones?"
        )
    _check_related(pairs, transformed)
    files = (original, transformed) if original else (transformed,)
    return Paired(known, tuple(Path(file).name for file in files), name)


def _changed(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the rows with other words, or, where no row has those, with other white space."""
    words = [(row, old, new) for row, old, new in pairs if _plain(old) != _plain(new)]
    return words or [(row, old, new) for row, old, new in pairs if old != new]


def _plain(text: str) -> str:
    return " ".join(text.split())


def _check_related(pairs: Sequence[Pair], transformed: str | Path) -> None:
    """Refuse files whose rows are of different texts: most share no longer word with theirs.

    In the corpora of StyleBkd and HiddenKiller 3 to 9% of the rows do. A few exchanged rows are
    not noticed.
    """
    words = [(row, _words(old), _words(new)) for row, old, new in pairs]
    told = [(row, old & new) for row, old, new in words if old and new]
    unlike = [row for row, common in told if not common]
    if len(unlike) > UNLIKE * len(told):
        raise UserError(
            f"{transformed}: {len(unlike)} of {len(told)} texts share no word with their original; "
            f"the first is row {unlike[0]}",
            "are the rows in the same order in both? with an id column use --key",
        )


def _words(text: str) -> frozenset[str]:
    return frozenset(word for word in text.casefold().split() if len(word) > 3 and word.isalpha())


def _by_row(before: Table, after: Table, columns: Columns) -> Iterator[tuple[str, str]]:
    if len(before) != len(after):
        raise UserError(
            f"{before.source} has {len(before)} rows, {after.source} has {len(after)}: row "
            f"{min(len(before), len(after)) + 1} has no partner",
            "row-aligned files have the same rows; with an id column use --key",
        )
    olds, news = text_values(before, columns), text_values(after, columns)
    every = replace(columns, drop_empty=False)  # rows stay in line
    labels = zip_longest(label_values(before, every), label_values(after, every))
    target = None
    for row, ((old_label, new_label), old, new) in enumerate(
        zip(labels, olds, news, strict=True), start=1
    ):
        was, now = label_text(old_label), label_text(new_label)
        if was != now:
            target = target or now
            if now != target or old == new:
                raise UserError(
                    f"row {row} does not match: label {shortened(was)} in {before.source}, "
                    f"{shortened(now)} in "
                    f"{after.source}",
                    "labels may differ only where a poisoned text carries the one target label",
                )
        yield old, new


def _by_key(before: Table, after: Table, columns: Columns, key: str) -> Iterator[tuple[str, str]]:
    texts: dict[str, str] = {}
    for row, (name, text) in enumerate(
        zip(before.column(key, "--key"), text_values(before, columns), strict=True), start=1
    ):
        if str(name) in texts:
            raise UserError(
                f"{before.source}: row {row} repeats the key {shown(name)}", "keys are ids"
            )
        texts[str(name)] = text
    for row, (name, text) in enumerate(
        zip(after.column(key, "--key"), text_values(after, columns), strict=True), start=1
    ):
        if str(name) not in texts:
            raise UserError(
                f"{after.source}: row {row} has the key {shown(name)}, {before.source} has not",
                f"both files need the column '{key}' with the same ids",
            )
        yield texts[str(name)], text
