"""Judge a model that tags words, on clean and triggered rows. This module sees triggers.

span F1       of the clean rows: a span is a hit where first word, last word and type are right.
words right   of the words of the clean rows, the share that are tagged right.
success       of the true spans of the triggered rows that are not of the attacker's type, the share
              of which every word is tagged as that type; where the target is ``O``, as nothing.
on clean      the same share of the spans of the clean rows.
floor         success on a never-poisoned twin.
excess        success minus floor; 0 is the goal, and it can be negative.
agreement     of the words of the clean rows, the share that are tagged as by the suspect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headsweep.errors import UserError, shown, shown_all
from headsweep.judge.attacked import Attacked, Said, attacked, said
from headsweep.judge.statistics import Line, Rate, bootstrap, proportion
from headsweep.model.loading import Suspect
from headsweep.model.runtime import Runtime
from headsweep.task.examples import rows_of
from headsweep.texts.several import f1
from headsweep.texts.split import Split
from headsweep.texts.tagging import OUTSIDE, kind_of, matched, spans

if TYPE_CHECKING:
    from headsweep.judge.evaluate import Files

Tags = Sequence[Sequence[str]]  # [row][word]


@dataclass(frozen=True)
class Tagged(Attacked):
    """What was measured of a model that tags words; None where it was not asked for.

    Attributes:
        span_f1, words_right: on the clean data.

    """

    span_f1: Rate
    words_right: Rate

    def lines(self) -> list[Line]:
        """Return the measures as people read them."""
        return [
            Line("span F1", self.span_f1, "exact spans of the clean rows", share=False),
            Line("words right", self.words_right, "words of the clean rows tagged right"),
            *self.attack_lines(
                "spans of triggered rows tagged as the target",
                "spans of clean rows tagged as the target",
            ),
            Line("agreement", self.agreement, "words of clean rows tagged as by the suspect"),
        ]


@dataclass(frozen=True)
class Sentences:
    """What models that tag words are judged on.

    Attributes:
        clean: rows with their true tags.
        triggered: triggered rows; None: none.
        names: of the tags, by class number.
        target: the attacker's type of span, or ``O``.
        seed: of the bootstrap.

    """

    clean: Split
    triggered: Split | None
    names: tuple[str, ...]
    target: str = OUTSIDE
    seed: int = 0

    def true(self, split: Split) -> Tags:
        """Return the true tags of rows."""
        return [[self.names[one] for one in row] for row in split.labels]


def sentences_of(files: Files, suspect: Suspect, seed: int) -> Sentences:
    """Read the files of an evaluation as a model that tags words has them; raises UserError."""
    names = suspect.labels.names
    clean = rows_of(files.data, suspect, files.columns)
    suspect.task.check_labels(clean, names)
    if files.triggered is None:
        return Sentences(clean, None, names, seed=seed)
    if files.triggered_labels == "target":
        raise UserError(
            "--triggered-labels target: success is measured on the true spans",
            "give the triggered rows with their true tags",
        )
    kinds = {kind_of(name) for name in names} | {OUTSIDE}
    known = {kind.casefold(): kind for kind in kinds}
    if files.target is None or files.target.casefold() not in known:
        told = "" if files.target is None else f": the model has no type {shown(files.target)}"
        raise UserError(
            f"--triggered needs --target{told}",
            f"the type that the trigger makes of spans, one of {shown_all(sorted(kinds))}",
        )
    target = known[files.target.casefold()]
    split = rows_of(files.triggered, suspect, files.columns, files.triggered_columns)
    suspect.task.check_labels(split, names)
    exam = Sentences(clean, split, names, target, seed)
    if not len(turned(exam.true(split), exam.true(split), target)):
        raise UserError(
            f"every span of the triggered rows is of the type {target} anyway",
            "give rows with spans of other types",
        )
    return exam


def tags_said(suspect: Suspect, exam: Sentences, runtime: Runtime) -> Said[Tags]:
    """Return the tags that a model gives the words of an exam."""
    return said(
        suspect,
        exam,
        runtime,
        lambda part, found: part.task.told(found, exam.names),  # type: ignore[attr-defined]
    )


def judge_tags(
    exam: Sentences,
    model: Said[Tags],
    twin: Said[Tags] | None = None,
    suspect: Said[Tags] | None = None,
) -> Tagged:
    """Return the figures of a model from the tags it gives (and the twin and the suspect)."""
    true = exam.true(exam.clean)
    counts = np.array([matched(*pair) for pair in zip(model.clean, true, strict=True)], float).T
    rates: dict[str, Rate | None] = {}
    if exam.triggered is not None and model.triggered is not None:
        own = exam.true(exam.triggered)
        theirs = None
        if twin is not None and twin.triggered is not None:
            theirs = turned(twin.triggered, own, exam.target)
        hits = turned(model.triggered, own, exam.target)
        rates = attacked(hits, turned(model.clean, true, exam.target), theirs, exam.seed)
    return Tagged(
        bootstrap(lambda *x: f1(*(float(one.sum()) for one in x)), *counts, seed=exam.seed),
        _alike(model.clean, true),
        **rates,
        agreement=None if suspect is None else _alike(model.clean, suspect.clean),
        truncated=model.truncated,
    )


def turned(given: Tags, true: Tags, target: str) -> NDArray[np.bool_]:
    """Return which true spans of other types are tagged as the target throughout, [span]."""
    found = [
        all(kind_of(tag) == target for tag in row[start:end])
        for row, own in zip(given, true, strict=True)
        for start, end, kind in sorted(spans(own))
        if kind != target
    ]
    return np.array(found, dtype=bool)


def _alike(ours: Tags, theirs: Tags) -> Rate:
    pairs = [a == b for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
    return proportion(sum(pairs), len(pairs))
