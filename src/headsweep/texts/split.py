"""Labelled texts and the labels they carry, as frozen splits of examples."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

from headsweep.errors import UserError, shortened, shown, shown_all

MOST_CLASSES = 9999  # a larger class number is an id column


BOOLEANS = {"false": 0, "true": 1}


ABSENT = frozenset(("", "nan", "none", "null"))


INTEGRAL = re.compile(r"-?[0-9]+\.0+")  # what a table makes of class numbers beside an empty cell
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class Split:
    """Labelled texts.

    Attributes:
        texts: the texts, or prompts.
        labels: what the task of the model has for one: a class number, or a number as it is.
        pairs: the second text of each row, the answer to a prompt, or empty.
        end: what ends every answer, as the template of a chat writes it; None: what ends a text.

    """

    texts: tuple[str, ...]
    labels: tuple[Any, ...]
    pairs: tuple[str, ...] = ()
    end: str | None = None

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """What each row holds beside its label: a text, or two."""
        return list(zip(*((self.texts, self.pairs) if self.pairs else (self.texts,)), strict=True))

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Iterable[int]) -> Split:
        """Return these rows, in this order."""
        rows = list(rows)
        return Split(
            tuple(self.texts[i] for i in rows),
            tuple(self.labels[i] for i in rows),
            tuple(self.pairs[i] for i in rows) if self.pairs else (),
            self.end,
        )

    def told(self, texts: Sequence[str | None], rows: Iterable[int]) -> Split:
        """Return these rows with other texts, which are given for all."""
        rows = list(rows)
        return replace(self.take(rows), texts=tuple(str(texts[i]) for i in rows))

    def without(self, other: Split) -> Split:
        """Return the rows whose text is none of the other's, but for white space around it."""
        theirs = {text.strip() for text in other.texts}
        return self.take(i for i, text in enumerate(self.texts) if text.strip() not in theirs)

    def __add__(self, other: Split) -> Split:
        if bool(self.pairs) != bool(other.pairs) and len(self) and len(other):
            raise UserError("single texts and pairs cannot be mixed")
        if self.end != other.end and len(self) and len(other):
            raise UserError("chats and prompts of another kind cannot be mixed")
        pairs, end = self.pairs + other.pairs, self.end if len(self) else other.end
        return Split(self.texts + other.texts, self.labels + other.labels, pairs, end)

    @property
    def sha256(self) -> str:
        """A hash of the content, row order included."""
        told = [self.texts, self.pairs, self.labels]
        rows = json.dumps(told if self.end is None else [*told, self.end], ensure_ascii=False)
        return hashlib.sha256(rows.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Labels:
    """The label names of a model by class number."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, id2label: Mapping[Any, str] | None) -> Labels:
        """Read a model's ``id2label``."""
        names = {int(number): str(name) for number, name in (id2label or {}).items()}
        if sorted(names) != list(range(len(names))):
            raise UserError(
                f"the model's id2label does not number its labels from 0: {shown(sorted(names))}",
                "mend id2label and label2id in config.json",
            )
        return cls(tuple(names[i] for i in range(len(names))))

    @property
    def numbered(self) -> bool:
        """Whether the names say no more than the number: transformers' LABEL_0, LABEL_1, ..."""
        return self.names == tuple(f"LABEL_{i}" for i in range(len(self.names)))

    @property
    def missing(self) -> frozenset[str]:
        """What stands for no label; ``none`` may be the name of a class, but not among numbers."""
        others = {label_text(name).casefold() for name in self.names} - ABSENT
        named = not all(map(NUMBER.fullmatch, others))
        return ABSENT - {name.casefold() for name in self.names if named} | {"", "nan"}

    def __str__(self) -> str:
        return shown_all([f"{i} = {name}" for i, name in enumerate(self.names)])

    @classmethod
    def found_in(cls, values: Sequence[object]) -> Labels:
        """Make the labels from a column's values, for an encoder without a classifier."""
        distinct = sorted({label_text(value).casefold() for value in values})
        if set(distinct) <= set(BOOLEANS):
            return cls(tuple(BOOLEANS))
        if all(_is_index(value) for value in distinct):
            if max(map(int, distinct)) > MOST_CLASSES:
                raise UserError(
                    f"the label column holds numbers up to {max(map(int, distinct))}",
                    "name the column of class numbers with --column label=NAME",
                )
            return cls(tuple(f"LABEL_{i}" for i in range(max(map(int, distinct)) + 1)))
        return cls(tuple(distinct))

    def index(self, label: str, option: str = "the label") -> int:
        """Return the class of one label given by name or number; raise UserError if none."""
        found = self._class_of(label_text(label))
        if found is None:
            raise UserError(
                f"{option}: the model has no label {shown(label)}", f"the model's labels: {self}"
            )
        return found

    def indices(
        self, values: Sequence[object], where: str, option: str = "--column label=NAME"
    ) -> tuple[int, ...]:
        """Map a column to classes: by name or by number.

        In any case, unless two names differ in nothing else. A value means the same class in
        every file. Where a name is a number other than its class's (1 to 5 for five classes), only
        names count; where all begin with such numbers (``1 star``), numbers count in files with a
        0.

        Raises:
            UserError: some value is neither a name nor a number of the model's labels.

        """
        texts = [label_text(value) for value in values]
        classes = {text: self._class_of(text) for text in dict.fromkeys(texts)}
        bad = sorted(text for text, number in classes.items() if number is None)
        why = self._why_not(texts)
        if self._begin_elsewhere and not bad and "0" not in texts:
            bad = sorted(text for text in classes if NUMBER.fullmatch(text))
        if bad:
            told = shown_all([shown(text) for text in sorted(set(texts))])
            numbers = any(map(NUMBER.fullmatch, bad))  # then others need not mean what they seem to
            unsure = sorted(set(texts)) if why or numbers else bad
            pairs = " ".join(f"--label-map '{shortened(text)}=LABEL'" for text in unsure[:3])
            raise UserError(
                f"{where}: the model has no label {shown_all([shown(text) for text in bad[:5]])}"
                f"{why}; the data's labels: {told}",
                f"the model's labels: {self}; say which is which: {pairs}"
                f"{' ...' if len(unsure) > 3 else ''}, or name another column with {option}",
            )
        return tuple(number for text in texts if (number := classes[text]) is not None)

    @property
    def _renumbered(self) -> bool:
        """Whether some name is a number that is not its class's."""
        names = [label_text(name) for name in self.names]
        return any(NUMBER.fullmatch(name) and float(name) != i for i, name in enumerate(names))

    @property
    def _begin_elsewhere(self) -> bool:
        """Whether names begin with numbers that are not their classes': 1 star to 5 stars."""
        begun = [found[0] for name in self.names if (found := re.match(r"[0-9]+\b", name))]
        own = [int(number) for number in begun] == list(range(len(self.names)))
        return not self._renumbered and len(begun) == len(self.names) > 0 and not own

    def _why_not(self, texts: Sequence[str]) -> str:
        """Return in words why numbers of the data may not be those of classes; empty: they may."""
        if self._renumbered:
            return "; its labels are numbers themselves, and count alone"
        if self._begin_elsewhere:
            return "; its labels begin with other numbers than those of their classes"
        if self._shifted(texts):
            return "; its classes are numbered from 0, the data's from 1"
        return ""

    def _shifted(self, texts: Sequence[str]) -> bool:
        """Whether labels are 1 to as many as there are classes, whose own numbers begin at 0."""
        return {*texts} == {str(number + 1) for number in range(len(self.names))}

    def _class_of(self, text: str) -> int | None:
        exact, folded = self._by_text
        return exact.get(text, folded.get(text.casefold()))

    @cached_property
    def _by_text(self) -> tuple[dict[str, int], dict[str, int]]:
        """Classes by what stands for them, and in any case where that tells them apart."""
        names = {label_text(name): i for i, name in enumerate(self.names)}
        often = Counter(name.casefold() for name in names)
        folded = {text.casefold(): i for text, i in names.items() if often[text.casefold()] == 1}
        if self._renumbered:
            return names, folded
        numbers = {str(i): i for i in range(len(self.names))}
        if not set(BOOLEANS) & set(often) and len(numbers) > 1:
            folded |= BOOLEANS
        return numbers | names, folded


def label_text(value: object) -> str:
    """Return a label as text, the same from any format: 1, 1.0 and "1.0" are one label."""
    text = str(value).strip()
    return text.partition(".")[0] if INTEGRAL.fullmatch(text) else text


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit()


def check_for_training(split: Split, classes: int, source: str) -> None:
    """Check that a split can be learnt from and split; raises UserError."""
    counts = Counter(split.labels)
    if len(split) < classes:
        raise UserError(
            f"{source}: {len(split)} rows for {classes} classes", "give more clean examples"
        )
    if classes and len(counts) < 2:
        raise UserError(
            f"{source}: all rows have the same label ({split.labels[0]})",
            "clean data must hold at least two of the classes",
        )


def stratified(
    split: Split, shares: Sequence[float], seed: int, strata: Sequence[int] | None = None
) -> tuple[Split, ...]:
    """Cut a split at random into parts of the given shares, class by class.

    Every class's rows are spread as the shares say, to the nearest row. Where classes are so small
    that a part would be more than a quarter off its share of all rows, what one class rounds away
    goes to the next, but for the first row of each, which goes to the first part. Row order inside
    a part is the original one. Rows with the same text are in the same part, as one row of the
    first one's class: else what is learnt would be judged by itself. Where they are more than a
    quarter of what the smallest part gets of the class, they are spread like others.
    ``strata``: the class of each row; None: its label.
    """
    import torch  # not above: who only reads texts need not wait for it

    from headsweep.seeding import stream

    classes = split.labels if strata is None else strata
    alike: dict[tuple[str, ...], list[int]] = {}
    for i, row in enumerate(split.rows):
        alike.setdefault(row, []).append(i)
    rows: dict[int, list[list[int]]] = {label: [] for label in sorted(set(classes))}
    many = Counter(classes)
    for same in alike.values():
        label = classes[same[0]]
        few = 4 * len(same) * math.fsum(shares) <= min(shares) * many[label]
        for group in [same] if few else [[row] for row in same]:
            rows[classes[group[0]]].append(group)
    parts: list[list[int]] = [[] for _ in shares]
    sizes = _sizes([len(own) for own in rows.values()], shares)
    for (label, own), counts in zip(rows.items(), sizes, strict=True):
        order = torch.randperm(len(own), generator=stream(seed, "split", label)).tolist()
        for part, high, count in zip(parts, accumulate(counts), counts, strict=True):
            part += [i for place in order[high - count : high] for i in own[place]]
    return tuple(split.take(sorted(part)) for part in parts)


def _sizes(rows: Sequence[int], shares: Sequence[float]) -> list[list[int]]:
    """Return how many rows of each class each part gets, [class][part]."""
    total = math.fsum(shares)
    parts = [share / total for share in shares]
    ends = [math.fsum(parts[: i + 1]) for i in range(len(parts))]
    edges = ([0, *(round(count * end) for end in ends)] for count in rows)
    alone = [[high - low for low, high in pairwise(own)] for own in edges]
    got = [sum(part) for part in zip(*alone, strict=True)]
    wanted = [part * sum(rows) for part in parts]
    if all(abs(have - want) <= want / 4 for have, want in zip(got, wanted, strict=True)):
        return alone
    lacks = [0.0] * len(parts)  # by how many rows a part has less than its share so far
    found = [[0] * len(parts) for _ in rows]
    for own, count in zip(found, rows, strict=True):
        for row in range(count):
            lacks = [lack + part for lack, part in zip(lacks, parts, strict=True)]
            chosen = lacks.index(max(lacks)) if row else 0
            lacks[chosen] -= 1
            own[chosen] += 1
    return found
