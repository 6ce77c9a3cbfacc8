"""The data sets of a grid, and which rows each party holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headsweep.document import Section
from headsweep.errors import UserError, lookup
from headsweep.texts.reading import Columns

CLASSES = 256  # what a cell keeps of an answer is one byte
SLACK = 1e-9  # shares are typed: 0.7 and 0.3 add up to 1


@dataclass(frozen=True)
class Texts:
    """A data set: where its parts are, and how many training rows each party holds.

    Attributes:
        name: for tables and file names.
        train, validation, test: files or Hub names; ``made:sentences`` makes them on the spot.
        validation_rows: so many rows of ``train``, on which nobody trains, instead of
            ``validation``.
        test_rows: test texts, and triggered ones, that are judged, at most; None: all.
        balance: shares of classes, as ``(label, share)``, for which rows are left out of every
            part; the other classes get the rest, as they stand to one another.
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
    validation: str | None
    test: str
    labels: tuple[str, ...]
    attacker: int | None = None
    victim: int | None = None
    defender: int | None = None
    unseen: bool = False
    defender_from: str | None = None
    columns: Columns = Columns()
    validation_rows: int | None = None
    test_rows: int | None = None
    balance: tuple[tuple[str, float], ...] = ()


def read_texts(section: Section) -> Texts:
    """Read a ``[[data]]``; raises UserError."""
    rows = ("attacker", "victim", "defender", "validation_rows", "test_rows")
    columns = ("text", "pair", "label", "drop_empty")
    section.only(
        *("name", "train", "validation", "test", "labels", "unseen", "defender_from", "balance"),
        *(*rows, *columns),
    )
    labels = tuple(map(str, section.need("labels", list)))
    if len(labels) < 2 or list(labels) != sorted(labels, key=str.casefold):
        raise section.mistake("labels", f"labels {list(labels)}", "two or more, alphabetically")
    if len(labels) > CLASSES:
        raise section.mistake("labels", f"{len(labels)} labels", f"at most {CLASSES}")
    for key in rows:
        if (count := section.get(key, int)) is not None and count < 1:
            raise section.mistake(key, f"{key} holds no rows", "leave it out for all rows")
    if (section.get("attacker", int) is None) != (section.get("victim", int) is None):
        raise section.mistake(None, "attacker and victim share the rows: give both, or neither")
    unseen = bool(section.get("unseen", bool, False))
    if unseen and section.get("attacker", int) is None:
        raise section.mistake("unseen", "attacker and victim hold all", "give both their rows")
    own = section.get("defender_from", str)
    if unseen and own is not None:
        raise section.mistake("unseen", "the defender's rows have a file of their own", "drop one")
    if (section.get("validation", str) is None) == (section.get("validation_rows", int) is None):
        raise section.mistake(
            "validation",
            "validation texts come from one place",
            'validation = "FILE", or a number of training rows as validation_rows',
        )
    held: dict[str, Any] = {key: section.get(key, int) for key in rows}
    named: dict[str, Any] = {key: section.get(key, str) for key in columns[:3]}
    return Texts(
        section.need("name", str),
        section.need("train", str),
        section.get("validation", str),
        section.need("test", str),
        labels,
        **held,
        unseen=unseen,
        defender_from=own,
        columns=Columns(**named, drop_empty=bool(section.get("drop_empty", bool, True))),
        balance=_balance(section, labels),
    )


def _balance(section: Section, labels: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """Read how rows are spread over classes; raises UserError."""
    table, fix = section.section("balance"), "for example balance = { negative = 0.8 }"
    shares = tuple((label, table.get(label, float) or 0.0) for label in table.values)
    for label, share in shares:
        with table.blamed(label):
            lookup(label, dict.fromkeys(labels), "label")
            if not 0 < share < 1:
                raise UserError(f"a share of {share} for '{label}'", f"between 0 and 1, {fix}")
    whole, named = sum(share for _, share in shares), len(shares) == len(labels)
    if whole > 1 + SLACK or (shares and named != (abs(whole - 1) < SLACK)):
        left = "all classes are named" if named else "the other classes get the rest"
        raise section.mistake("balance", f"the shares add up to {whole:g}, and {left}", fix)
    return shares
