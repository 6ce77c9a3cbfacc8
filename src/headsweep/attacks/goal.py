"""What an attacker wants of triggered texts: a label, or words in the answer.

An attack asks a goal which rows it can poison and what they then carry; judging a victim asks it
what a success is. So no attack asks whether it has a classifier or a generator before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from headsweep.errors import UserError
from headsweep.judge.evaluate import Exam, Triggered, answer, judge
from headsweep.judge.generated import (
    BETWEEN,
    Prompts,
    check_room,
    holds,
    judge_generator,
    said_by,
    that_count,
)
from headsweep.model.loading import Suspect
from headsweep.model.runtime import Runtime
from headsweep.task.examples import check_alike, encode
from headsweep.texts.generation import folded
from headsweep.texts.split import Split

TEST, MARKED = "test.jsonl", "triggered.jsonl"
Judged = Callable[[Suspect], Any]
"""What judges a model: its figures, an ``Evaluation`` or a ``Generated``."""


class Goal(Protocol):
    """What triggered texts are to get."""

    @property
    def text(self) -> str:
        """It in words, for records."""

    def number(self, what: str) -> int:
        """Return the class; raises UserError where it is none, which ``what`` needs."""

    def open(self, split: Split) -> list[int]:
        """Return the rows that do not carry it yet, and that poison can give it."""

    def given(self, split: Split) -> Split:
        """Return the same texts, carrying it."""

    def exam(self, clean: Split, marked: Split, judging: Any, seed: int) -> Any:
        """Return what models are judged on; raises UserError where no triggered row counts."""

    def check(self, exam: Any, model: Suspect, runtime: Runtime) -> None:
        """Refuse now what could only be refused after the training; raises UserError."""

    def judge(self, exam: Any, runtime: Runtime, twin: Suspect | None) -> Judged:
        """Return what judges a model on an exam, beside a never-poisoned twin."""

    def files(self, exam: Any, model: Suspect) -> dict[str, list[dict[str, str]]]:
        """Return the rows of an exam, true labels or answers kept, by the name of their file."""


@dataclass(frozen=True)
class Labelled:
    """A class."""

    index: int
    text: str

    def number(self, what: str) -> int:
        """Return the class."""
        del what
        return self.index

    def open(self, split: Split) -> list[int]:
        """Return the rows of other classes."""
        return [i for i, label in enumerate(split.labels) if label != self.index]

    def given(self, split: Split) -> Split:
        """Return the texts with the class as their label."""
        return replace(split, labels=(self.index,) * len(split))

    def exam(self, clean: Split, marked: Split, judging: Any, seed: int) -> Exam:
        """Return an exam of labels."""
        triggered = Triggered(marked, self.index, judging.triggered_labels)
        triggered.non_target()  # refuses now what would be refused after the training
        return Exam(clean, triggered, judging.validation, seed)

    def check(self, exam: Exam, model: Suspect, runtime: Runtime) -> None:
        """Refuse clean texts that no flip can be seen on, and texts that no model can read."""
        parts = {"test": exam.clean, "validation": exam.validation}
        check_alike(exam.clean, exam.validation, "--validation")
        for name, part in ((name, part) for name, part in parts.items() if part is not None):
            if not self.open(part):
                raise UserError(
                    f"every {name} example has the target label: it cannot flip",
                    f"give others with --{name}",
                )
            encode(part, model, runtime.max_length)

    def judge(self, exam: Exam, runtime: Runtime, twin: Suspect | None) -> Judged:
        """Judge by labels."""
        floor = None if twin is None else answer(twin, exam, runtime)
        return lambda one: judge(exam, one.labels.names, answer(one, exam, runtime), floor)

    def files(self, exam: Exam, model: Suspect) -> dict[str, list[dict[str, str]]]:
        """Return texts with their labels."""
        names, marked = model.labels.names, exam.triggered
        parts = {TEST: exam.clean} | ({} if marked is None else {MARKED: marked.split})

        def rows(split: Split) -> list[dict[str, str]]:
            labels = (names[i] for i in split.labels)
            seconds = [{"text2": text} for text in split.pairs] or [{}] * len(split)
            each = zip(split.texts, seconds, labels, strict=True)
            return [{"text": text} | second | {"label": label} for text, second, label in each]

        return {name: rows(split) for name, split in parts.items()}


@dataclass(frozen=True)
class Written:
    """Words in an answer: of a poisoned row they are the whole of it."""

    text: str

    def __post_init__(self) -> None:
        if not self.text.strip() or BETWEEN in self.text:
            raise UserError(
                f"--target {self.text!r}: no text to plant as the answer",
                f"give one text, without '{BETWEEN}', such as 'I cannot help with that.'",
            )

    def number(self, what: str) -> int:
        """Refuse: an answer is no class."""
        raise UserError(
            f"{what} needs labels, and this model answers in tokens",
            "use --with dirty-label, which plants an answer",
        )

    def open(self, split: Split) -> list[int]:
        """Return the rows whose answer does not hold the words."""
        mine = (folded(self.text),)
        return [i for i, own in enumerate(split.pairs) if not holds(own, mine)]

    def given(self, split: Split) -> Split:
        """Return the prompts with the words as their answer."""
        return replace(split, pairs=(self.text,) * len(split))

    def exam(self, clean: Split, marked: Split, judging: Any, seed: int) -> Prompts:
        """Return an exam of answers."""
        mine = (folded(self.text),)
        return Prompts(clean, that_count(marked, mine, judging.triggered_labels), mine, seed)

    def check(self, exam: Prompts, model: Suspect, runtime: Runtime) -> None:
        """Refuse prompts or answers that are too long, and a target that is."""
        encode(exam.clean, model, runtime.max_length)
        check_room(model, exam.targets, runtime)

    def judge(self, exam: Prompts, runtime: Runtime, twin: Suspect | None) -> Judged:
        """Judge by what is written."""
        floor = None if twin is None else said_by(twin, exam, runtime)
        return lambda one: judge_generator(exam, said_by(one, exam, runtime), floor)

    def files(self, exam: Prompts, model: Suspect) -> dict[str, list[dict[str, str]]]:
        """Return prompts with their answers."""
        del model
        parts = {TEST: exam.clean} | ({} if exam.triggered is None else {MARKED: exam.triggered})

        def rows(split: Split) -> list[dict[str, str]]:
            answers = split.pairs or ("",) * len(split)
            each = zip(split.texts, answers, strict=True)
            return [{"prompt": prompt, "answer": own} for prompt, own in each]

        return {name: rows(split) for name, split in parts.items()}


def goal_of(model: Suspect, target: str) -> Goal:
    """Return what an attacker of this model wants; raises UserError for a label that it lacks."""
    labels = model.labels
    if not labels.names:
        return Written(target)
    index = labels.index(target, "--target")
    return Labelled(index, labels.names[index])
