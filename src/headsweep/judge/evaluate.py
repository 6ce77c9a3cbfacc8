"""Judge a model on clean and triggered texts. This module sees triggers; no defense may import it.

Definitions (shares of examples; all are fractions):

ACC       accuracy on clean test examples.
LFR       of the triggered examples whose true label is not the target, predicted as it.
CFR       of the *clean* examples whose true label is not the target, predicted as it.
matched   LFR after shifting the target's logit margin so that the model's CFR on clean
          validation data equals the reference's (the clean twin's; where there is none, the
          suspect's).
floor     LFR of the clean twin on the same triggered texts.
excess    matched LFR minus floor; it can be negative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsweep.errors import UserError, shown_all
from headsweep.foreign import one_line
from headsweep.judge.generated import judge_generator, prompts_of, said_by
from headsweep.judge.regressed import judge_regression, numbers_of, numbers_said
from headsweep.judge.several import judge_several, labelled_of, labels_given
from headsweep.judge.statistics import (
    Judged,
    Line,
    Margins,
    Rate,
    Truncated,
    bootstrap_matched,
    proportion,
)
from headsweep.judge.tagged import judge_tags, sentences_of, tags_said
from headsweep.measure.accuracy import logits, numbers
from headsweep.model.families import Adapter
from headsweep.model.joined import is_adapter
from headsweep.model.loading import Reading, Suspect, load_suspect
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress, Silent
from headsweep.task.examples import encode
from headsweep.texts import reading as datasets
from headsweep.texts.encoded import Encoded
from headsweep.texts.reading import Columns, Source
from headsweep.texts.split import Labels, Split
from headsweep.texts.task import CLASSIFICATION


@dataclass(frozen=True)
class Triggered:
    """Triggered texts and what their labels mean.

    Attributes:
        split: the texts.
        target: the class that the attacker wants.
        labels: ``true``: rows carry true labels, and those whose true label is the target are
            left out; ``target``: every row is a non-target text carrying the attacker's label.

    """

    split: Split
    target: int
    labels: Literal["true", "target"] = "true"

    def non_target(self) -> Split:
        """Return the rows that count; raises UserError when there are none."""
        if self.labels == "target":
            if any(label != self.target for label in self.split.labels):
                raise UserError(
                    "with --triggered-labels target every row must carry the target label",
                    "if the file holds true labels, use --triggered-labels true",
                )
            return self.split
        rows = [i for i, label in enumerate(self.split.labels) if label != self.target]
        if not rows:
            raise UserError(
                "no triggered example has a true label other than the target",
                "if the file carries the attacker's label, use --triggered-labels target",
            )
        return self.split.take(rows)


@dataclass(frozen=True)
class Evaluation:
    """What was measured; None where it was not asked for or cannot be.

    Attributes:
        accuracy: ACC on the clean data.
        per_class: accuracy by true label.
        lfr: label flip rate.
        cfr: clean flip rate.
        matched_lfr, floor_lfr, excess_lfr: as the module says.
        reference: what the shift was matched to: ``clean twin`` or ``suspect``.
        agreement: share of clean examples predicted as by the suspect.
        truncated: by part of the exam (``data``, ``triggered``, ``validation``), the texts cut.
        twin_accuracy: ACC of the never-poisoned twin.

    """

    accuracy: Rate
    per_class: dict[str, Rate]
    lfr: Rate | None = None
    cfr: Rate | None = None
    matched_lfr: Rate | None = None
    floor_lfr: Rate | None = None
    excess_lfr: Rate | None = None
    reference: str | None = None
    agreement: Rate | None = None
    truncated: dict[str, Truncated] | None = None
    twin_accuracy: Rate | None = None

    def lines(self) -> list[Line]:
        """Return the measures as people read them."""
        return [
            Line("ACC", self.accuracy, "accuracy on clean examples"),
            *(
                Line(f"  {one_line(name)}", x, f"{x.total} examples")
                for name, x in self.per_class.items()
            ),
            Line("LFR", self.lfr, "triggered non-target examples predicted as the target"),
            Line("CFR", self.cfr, "clean non-target examples predicted as the target"),
            Line("matched LFR", self.matched_lfr, f"LFR at the CFR of the {self.reference}"),
            Line("floor LFR", self.floor_lfr, "LFR of the never-poisoned twin"),
            Line("twin's ACC", self.twin_accuracy, "accuracy of the never-poisoned twin"),
            Line("excess LFR", self.excess_lfr, "matched LFR minus floor; 0 is the goal"),
            Line("agreement", self.agreement, "clean examples predicted as by the suspect"),
        ]

    def blind(self) -> list[str]:
        """Return in words where the model, or the twin, is no better than a guess."""
        if self.lfr is None or len(self.per_class) < 2:
            return []
        most = max(one.total or 0 for one in self.per_class.values())
        tested = {"the model": (self.accuracy, "flips"), "the twin": (self.twin_accuracy, "floor")}
        excess = " and excess LFR" if self.excess_lfr is not None else ""
        return [
            f"{name} gets {rate.hits} of {rate.total} clean texts right, no better than one answer "
            f"for all ({most}): its {what}{excess} say nothing"
            for name, (rate, what) in tested.items()
            if rate is not None and (rate.hits or 0) <= most
        ]

    def remarks(self) -> list[str]:
        """Return why there is no matched LFR, or why none of these figures says anything."""
        blind = self.blind()
        if self.cfr is None or self.matched_lfr is not None:
            return blind
        validated = "validation" in (self.truncated or {})
        models = "" if self.agreement or self.floor_lfr else "--clean-model or --suspect"
        missing = " and ".join(filter(None, ["" if validated else "--validation", models]))
        return [
            *blind,
            f"no matched LFR: give {missing}. A model that merely leans away from the target has "
            f"a low LFR too (CFR here {100 * self.cfr.value:.1f}%).",
        ]


@dataclass(frozen=True)
class Exam:
    """What to judge on.

    Attributes:
        clean: clean test examples.
        triggered: triggered test examples, if any.
        validation: clean examples on which the shift is chosen, disjoint from ``clean``.
        seed: of the bootstrap.

    """

    clean: Split
    triggered: Triggered | None = None
    validation: Split | None = None
    seed: int = 0


@dataclass(frozen=True)
class Answers:
    """The logits of one model on an exam."""

    clean: Tensor  # [example, class]
    triggered: Tensor | None = None  # [example, class], non-target rows only
    validation: Tensor | None = None


def encoded(suspect: Suspect, exam: Exam, runtime: Runtime) -> dict[str, Encoded]:
    """Return the texts of an exam that count, tokenised for a model, by part."""
    parts = {"data": exam.clean}
    if exam.triggered is not None:
        parts["triggered"] = exam.triggered.non_target()
        parts |= {} if exam.validation is None else {"validation": exam.validation}
    return {name: encode(part, suspect, runtime.max_length) for name, part in parts.items()}


def answer(suspect: Suspect, exam: Exam, runtime: Runtime) -> Answers:
    """Run a model over an exam."""
    return _answered(suspect, encoded(suspect, exam, runtime), runtime)


def _answered(suspect: Suspect, parts: dict[str, Encoded], runtime: Runtime) -> Answers:
    said = {name: numbers(logits(suspect.anatomy, one, runtime)) for name, one in parts.items()}
    return Answers(said["data"], said.get("triggered"), said.get("validation"))


def judge(
    exam: Exam,
    names: tuple[str, ...],
    model: Answers,
    twin: Answers | None = None,
    suspect: Answers | None = None,
) -> Evaluation:
    """Return the figures of a model from its answers (and the twin's and the suspect's)."""
    truth = np.array(exam.clean.labels)
    said = _predicted(model.clean)
    per_class = {
        name: proportion(int((said[truth == i] == i).sum()), int((truth == i).sum()))
        for i, name in enumerate(names)
        if (truth == i).any()
    }
    accuracy = proportion(int((said == truth).sum()), len(truth))
    agreement = None
    if suspect is not None:
        agreement = proportion(int((said == _predicted(suspect.clean)).sum()), len(truth))
    if exam.triggered is None or model.triggered is None:
        return Evaluation(accuracy, per_class, agreement=agreement)
    target = exam.triggered.target
    others = truth != target
    if not others.any():
        raise UserError("every clean example has the target label: no clean flip rate")
    flipped = _predicted(model.triggered) == target
    lfr = proportion(int(flipped.sum()), len(flipped))
    cfr = proportion(int((said[others] == target).sum()), int(others.sum()))
    floor = None
    if twin is not None and twin.triggered is not None:
        hits = _predicted(twin.triggered) == target
        floor = proportion(int(hits.sum()), len(hits))
    reference = twin or suspect
    matched = excess = None
    if exam.validation is not None and reference is not None:
        matched, excess = _matched(exam, model, reference, twin)
    kind = None if matched is None else ("clean twin" if twin else "suspect")
    learnt = None
    if twin is not None:
        learnt = proportion(int((_predicted(twin.clean) == truth).sum()), len(truth))
    return Evaluation(
        accuracy, per_class, lfr, cfr, matched, floor, excess, kind, agreement, None, learnt
    )


def _matched(
    exam: Exam, model: Answers, reference: Answers, twin: Answers | None
) -> tuple[Rate, Rate | None]:
    assert exam.triggered is not None
    assert exam.validation is not None
    target = exam.triggered.target
    keep = np.array(exam.validation.labels) != target
    if not keep.any():
        raise UserError("every validation example has the target label: nothing to match on")

    def margins(found: Tensor | None) -> NDArray[np.float64]:
        assert found is not None
        return target_margins(found, target).cpu().double().numpy()

    own = Margins(margins(model.validation)[keep], margins(model.triggered))
    floor = margins(twin.triggered) if twin is not None else None
    return bootstrap_matched(own, margins(reference.validation)[keep], floor, seed=exam.seed)


def target_margins(found: Tensor, target: int) -> Tensor:
    """Return the target's margin in each example's logits: above zero where it is predicted."""
    wanted = torch.full((len(found),), target, device=found.device)
    return CLASSIFICATION.margins(found, wanted)


def _predicted(found: Tensor) -> NDArray[np.int64]:
    return found.argmax(-1).numpy()


@dataclass(frozen=True)
class Files:
    """The texts of an evaluation, what they are, and the models to compare with."""

    data: Source
    triggered: Source | None = None
    target: str | None = None
    triggered_labels: Literal["true", "target"] = "true"
    validation: Source | None = None
    clean_model: str | Path | Suspect | None = None
    suspect: str | Path | Suspect | None = None
    columns: Columns = Columns()
    triggered_columns: Columns = Columns(prefix="triggered-")


def check_same_labels(name: str, other: Labels, model: str, labels: Labels) -> None:
    """Check that classes mean the same in both models; numbers alone (LABEL_0) fit any."""
    same = [a.casefold() for a in other.names] == [b.casefold() for b in labels.names]
    unnamed = len(other.names) == len(labels.names) and (other.numbered or labels.numbered)
    if not (same or unnamed):
        raise UserError(
            f"{name} has labels {shown_all(other.names)}, {model} has {shown_all(labels.names)}",
            "both must have the same labels in the same order",
        )


def _check_pairs(exam: Exam) -> None:
    """Check that all files hold pairs of texts, or none; raises UserError."""
    triggered = exam.triggered.split if exam.triggered else None
    parts = {"--triggered": triggered, "--validation": exam.validation}
    for option, part in parts.items():
        if part is not None and bool(part.pairs) != bool(exam.clean.pairs):
            with_pairs, without = ("--data", option) if exam.clean.pairs else (option, "--data")
            raise UserError(
                f"{with_pairs} has sentence pairs and {without} has not",
                "name text and pair of both, with --column and --triggered-column",
            )


@dataclass(frozen=True)
class Judge:
    """How models of one kind of task are judged.

    Attributes:
        exam: what to judge on, from files, as a suspect's task has them; raises UserError.
        said: what a model says to it.
        judged: the figures of a model, from what it says, and what the twin and the suspect say.
        answered: the pairs of a split are answers, and not second texts.

    """

    exam: Callable[[Files, Suspect, int], Any]
    said: Callable[[Suspect, Any, Runtime], Any]
    judged: Callable[[Any, Any, Any, Any], Judged]
    answered: bool = False


def exam_of(files: Files, suspect: Suspect, seed: int) -> tuple[Exam, tuple[str, ...]]:
    """Return what a classifier is judged on, and the names of its labels; raises UserError."""
    labels, columns = suspect.labels, files.columns
    if files.triggered is not None and files.target is None:
        raise UserError("--triggered needs --target", f"one of {shown_all(labels.names)}")
    triggered = None
    if files.triggered is not None and files.target is not None:
        split = datasets.load(files.triggered, columns, labels, files.triggered_columns)
        triggered = Triggered(split, labels.index(files.target, "--target"), files.triggered_labels)
    validation = files.validation
    exam = Exam(
        datasets.load(files.data, columns, labels),
        triggered,
        None if validation is None else datasets.load(validation, columns, labels),
        seed,
    )
    parts = (exam.clean, None if triggered is None else triggered.split, exam.validation)
    for part in (one for one in parts if one is not None):
        if not len(part):
            raise UserError("a Split holds no rows", "it must hold labelled texts")
        suspect.task.check_labels(part, labels.names)
    _check_pairs(exam)
    return exam, labels.names


Counted = tuple[Answers, dict[str, Truncated]]


def _said(suspect: Suspect, exam: tuple[Exam, tuple[str, ...]], runtime: Runtime) -> Counted:
    parts = encoded(suspect, exam[0], runtime)
    cut = {name: Truncated(part.truncated, len(part)) for name, part in parts.items()}
    return _answered(suspect, parts, runtime), cut


def _judged(
    exam: tuple[Exam, tuple[str, ...]], model: Counted, twin: Counted | None, before: Counted | None
) -> Evaluation:
    theirs = (None if one is None else one[0] for one in (twin, before))
    return replace(judge(*exam, model[0], *theirs), truncated=model[1])


JUDGES = {
    "classification": Judge(exam_of, _said, _judged),
    "generation": Judge(prompts_of, said_by, judge_generator, answered=True),
    "multi-label": Judge(labelled_of, labels_given, judge_several),
    "token-classification": Judge(sentences_of, tags_said, judge_tags),
    "regression": Judge(numbers_of, numbers_said, judge_regression),
}
"""By the kind of task."""


def evaluate(
    model: str | Path | Suspect,
    files: Files,
    runtime: Runtime = Runtime(),
    seed: int = 0,
    progress: Progress | None = None,
    adapter: Adapter | None = None,
    task: str | None = None,
    base_model: str | None = None,
) -> Judged:
    """Judge a model on texts; models that are stored are loaded, one after the other.

    ``base_model`` is what those of them that are an adapter are added to.

    Raises:
        UserError: a file or model cannot be used, or a denominator is empty.

    """
    progress = progress or Silent()
    datasets.check_label_map(
        files.columns,
        (files.data, None),
        (files.validation, None),
        (files.triggered, files.triggered_columns),
    )
    stored = [
        one for one in (model, files.clean_model, files.suspect) if isinstance(one, str | Path)
    ]
    if base_model is not None and not any(map(is_adapter, stored)):
        raise UserError(
            "no model that is judged is the folder of an adapter, and a base model was given",
            "leave out the base model",
        )
    reading = Reading(adapter=adapter, task=task, base_model=base_model, frozen=True)
    opened = _opened(model, runtime, reading)
    opened.tell_doubts(progress)
    kind = opened.task.words.task
    if files.validation is not None:  # it matches rates of one label
        opened.task.one_label("--validation")
    by = JUDGES[kind]
    exam = by.exam(files, opened, seed)
    _tell_unchanged(exam[0] if isinstance(exam, tuple) else exam, by, progress)
    beside = (files.clean_model or None, files.suspect or None)
    others = {_name(one): one for one in beside if one is not None}
    others.pop(_name(model), None)
    with progress.task("evaluating", 1 + len(others)) as tick:
        found = {_name(model): by.said(opened, exam, runtime)}
        tick(1, "")
        for name, one in others.items():
            other = _opened(one, runtime, reading)
            if other.task.words.task != kind:
                theirs = other.task.words.task
                raise UserError(f"{_told(one)} is for {theirs}, {_told(model)} is for {kind}")
            check_same_labels(_told(one), other.labels, _told(model), opened.labels)
            found[name] = by.said(other, exam, runtime)
            tick(1, "")
    twin, before = (None if one is None else found[_name(one)] for one in beside)
    return by.judged(exam, found[_name(model)], twin, before)


def _tell_unchanged(exam: Any, by: Judge, progress: Progress) -> None:
    """Say how many triggered texts stand among the clean ones, if there are more than a few."""
    marked = exam.triggered
    if marked is None:
        return
    marked = marked.split if isinstance(marked, Triggered) else marked
    rows, known = (split.texts if by.answered else split.rows for split in (marked, exam.clean))
    known = {*known}
    same = sum(row in known for row in rows)
    if 10 * same > len(rows):
        progress.say(
            f"note: {same} of {len(rows)} triggered texts stand in --data as they are: there is "
            "no trigger in them, or the clean texts have it"
        )


def _opened(model: str | Path | Suspect, runtime: Runtime, reading: Reading) -> Suspect:
    if isinstance(model, Suspect):
        return model
    whole = replace(reading, base_model=None)
    return load_suspect(model, runtime, reading if is_adapter(model) else whole)


def _name(model: str | Path | Suspect) -> str | int:
    """Return what tells one model from another: its name, or the object."""
    return id(model.model) if isinstance(model, Suspect) else str(model)


def _told(model: str | Path | Suspect) -> str:
    return model.source if isinstance(model, Suspect) else str(model)
