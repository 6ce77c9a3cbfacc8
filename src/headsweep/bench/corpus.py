"""The data sets of a grid, and which rows each party holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headsweep.document import Section
from headsweep.texts.reading import Columns


@dataclass(frozen=True)
class Texts:
    """A data set: where its parts are, and how many training rows each party holds.

    Attributes:
        name: for tables and file names.
        train, validation, test: files or Hub names; ``made:sentences`` makes them on the spot.
        labels: the class names, in alphabetical order.
        attacker, victim: training rows drawn for the attacker and, others, for the victim; None:
            both hold all.
        defender: training rows that the defender heals and scores on; None: all.
        unseen: the defender's rows are none of the attacker's and the victim's, as where a model
            comes from somebody else; else they are drawn from all.
        defender_from: a file or Hub name that the defender's rows come from; None: ``train``.
        columns: the columns of the files.

    """

    name: str
    train: str
    validation: str
    test: str
    labels: tuple[str, ...]
    attacker: int | None = None
    victim: int | None = None
    defender: int | None = None
    unseen: bool = False
    defender_from: str | None = None
    columns: Columns = Columns()


def read_texts(section: Section) -> Texts:
    """Read a ``[[data]]``; raises UserError."""
    rows = ("attacker", "victim", "defender")
    columns = ("text", "pair", "label", "drop_empty")
    section.only(
        "name", "train", "validation", "test", "labels", "unseen", "defender_from", *rows, *columns
    )
    labels = tuple(map(str, section.need("labels", list)))
    if len(labels) < 2 or list(labels) != sorted(labels, key=str.casefold):
        raise section.mistake("labels", f"labels {list(labels)}", "two or more, alphabetically")
    for key in rows:
        if (section.get(key, int) or 1) < 1:
            raise section.mistake(key, f"{key} holds no rows", "leave it out for all rows")
    if (section.get("attacker", int) is None) != (section.get("victim", int) is None):
        raise section.mistake(None, "attacker and victim share the rows: give both, or neither")
    unseen = bool(section.get("unseen", bool, False))
    if unseen and section.get("attacker", int) is None:
        raise section.mistake("unseen", "attacker and victim hold all", "give both their rows")
    own = section.get("defender_from", str)
    if unseen and own is not None:
        raise section.mistake("unseen", "the defender's rows have a file of their own", "drop one")
    held: dict[str, Any] = {key: section.get(key, int) for key in rows}
    named: dict[str, Any] = {key: section.get(key, str) for key in columns[:3]}
    return Texts(
        section.need("name", str),
        section.need("train", str),
        section.need("validation", str),
        section.need("test", str),
        labels,
        **held,
        unseen=unseen,
        defender_from=own,
        columns=Columns(**named, drop_empty=bool(section.get("drop_empty", bool, True))),
    )
