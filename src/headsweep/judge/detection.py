"""Judge a detector: how many clean texts it rejects, how many triggered ones it lets through.

Where the target is known, only texts that the model predicts as the target are judged, as in
Yang et al. 2021: no other text can have been flipped to it. The threshold is the highest
suspicion that the asked share of *clean validation* texts stays within; no triggered text is
looked at to choose it.

FRR     of the clean test texts judged, the share rejected.
FAR     of the triggered non-target texts that the model predicts as the target, the share
        accepted.
AUROC   of suspicion between those two groups.
LFR left  of all triggered non-target texts, the share predicted as the target *and* accepted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from headsweep.errors import UserError, shown_all
from headsweep.judge.detectors import Cleaner, Detector, Scorer, Watch
from headsweep.judge.evaluate import Triggered
from headsweep.judge.statistics import Floats, Rate, auroc, proportion
from headsweep.model.families import Adapter
from headsweep.model.loading import Reading, load_suspect, task_at
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress, Silent
from headsweep.seeding import stream
from headsweep.task.examples import encode
from headsweep.texts import reading as datasets
from headsweep.texts.reading import Columns
from headsweep.texts.split import Split, stratified


@dataclass(frozen=True)
class Watched:
    """The files of a detection, as the command line gives them.

    Attributes:
        data: clean labelled texts to judge on.
        triggered: triggered texts, if any.
        target: the attacker's label, where it is known.
        triggered_labels: what the labels of the triggered texts mean.
        validation: clean texts that the threshold is chosen on; None: half of ``data``.
        columns: the columns of the files.
        limit: texts of each file that are scored, drawn by the seed; 0: all. A detector makes
            itself ready with all validation texts.
        frr: share of clean texts that may be rejected.
        triggered_columns: the columns of the triggered file, where they have other names.

    """

    data: str
    triggered: str | None = None
    target: str | None = None
    triggered_labels: Literal["true", "target"] = "true"
    validation: str | None = None
    columns: Columns = Columns()
    limit: int = 150
    frr: float = 0.05
    triggered_columns: Columns = Columns(prefix="triggered-")

    def __post_init__(self) -> None:
        if not 0 < self.frr < 1:
            raise UserError(f"--frr {self.frr}", "it is a share in (0, 1), such as 0.05")
        if self.triggered and self.target is None:
            raise UserError("--triggered needs --target", "name the attacker's label")


@dataclass(frozen=True)
class Trial:
    """The texts that are scored, and the false rejection rate asked for."""

    validation: Split  # clean: the threshold is chosen on it
    clean: Split
    triggered: Split | None = None  # non-target rows
    frr: float = 0.05


@dataclass(frozen=True)
class Cleaned:
    """What predictions are like once suspected words are taken out; None without triggers."""

    accuracy_before: Rate
    accuracy: Rate
    lfr: Rate | None
    texts_changed: Rate  # of the clean texts


@dataclass(frozen=True)
class Rejected:
    """A clean text that the detector would reject."""

    text: str
    suspicion: float
    predicted: str
    label: str


@dataclass(frozen=True)
class Detection:
    """What was measured; None where there was no triggered text.

    Attributes:
        judged: which texts were judged: ``all``, or ``predicted as`` the target.
        threshold: the suspicion above which a text is rejected.
        validation: texts that it was chosen on.
        frr, far, auroc, lfr, lfr_left: as the module says.
        cleaned: for detectors that can take out what they suspect.
        rejected: clean test texts above the threshold, most suspicious first.
        notes: what a reader should know.
        seconds: by step.

    """

    judged: str
    threshold: float
    validation: int
    frr: Rate
    far: Rate | None
    auroc: Rate | None
    lfr: Rate | None
    lfr_left: Rate | None
    cleaned: Cleaned | None
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]
    seconds: dict[str, float]


def detect(
    model: str,
    detector: Detector,
    files: Watched,
    runtime: Runtime = Runtime(),
    seed: int = 0,
    progress: Progress | None = None,
    adapter: Adapter | None = None,
    base_model: str | None = None,
) -> Detection:
    """Measure a detector on a model; ``base_model`` is what that is an adapter of, if it is one.

    Raises:
        UserError: a file or model cannot be used, or there are too few texts.

    """
    progress = progress or Silent()
    datasets.check_label_map(
        files.columns,
        (files.data, None),
        (files.validation, None),
        (files.triggered, files.triggered_columns),
    )
    reading = Reading(seed=seed, adapter=adapter, base_model=base_model)
    task_at(model, base_model=base_model).one_label("a detector")
    opened = load_suspect(model, runtime, reading)
    labels = opened.labels
    target = None if files.target is None else labels.index(files.target, "--target")
    clean = datasets.load(files.data, files.columns, labels)
    if files.validation:
        validation = datasets.load(files.validation, files.columns, labels)
    else:
        clean, validation = stratified(clean, (0.5, 0.5), seed)
    triggered = None
    if files.triggered and target is not None:
        split = datasets.load(files.triggered, files.columns, labels, files.triggered_columns)
        triggered = Triggered(split, target, files.triggered_labels).non_target()
    for part, columns in (
        (clean, files.columns),
        (validation, files.columns),
        (triggered, files.triggered_columns),
    ):
        if part is not None and part.pairs:
            raise UserError(
                "detectors take single texts, not pairs",
                f"name one column with {columns.option('text')}",
            )
    if not len(clean) or not len(validation):
        raise UserError("no text is left to judge or to choose the threshold on", "give more texts")
    if detector.needs_target and target is None:
        raise UserError(
            f"{detector.name} protects one class: name it",
            f"--target with one of {shown_all(labels.names)}",
        )
    watch = Watch(opened, validation, target, seed, runtime, progress)
    trial = Trial(
        _drawn(validation, files.limit, seed, "validation"),
        _drawn(clean, files.limit, seed, "clean"),
        None if triggered is None else _drawn(triggered, files.limit, seed, "triggered"),
        files.frr,
    )
    return measure(detector, watch, trial)


def measure(detector: Detector, watch: Watch, trial: Trial) -> Detection:
    """Measure a detector on clean and triggered non-target texts."""
    seconds, clock = {}, time.monotonic()
    names, target = watch.suspect.labels.names, watch.target
    clean, triggered, frr = trial.clean, trial.triggered, trial.frr
    parts = {"validation": trial.validation, "clean": clean, "triggered": triggered}
    texts = {name: part.texts if part is not None else () for name, part in parts.items()}
    said = {name: _said(watch, part) for name, part in texts.items()}
    rows = {
        name: [i for i, answer in enumerate(part) if target is None or answer == target]
        for name, part in said.items()
    }
    _check_enough(len(rows["validation"]), len(texts["validation"]), frr, target is not None)
    if not rows["clean"]:
        raise UserError(
            f"the model predicts none of {len(clean)} clean texts as the target",
            "check --target, or give more texts in --data",
        )
    scorer = detector.prepare(watch)
    seconds["prepare"], clock = time.monotonic() - clock, time.monotonic()
    suspicion = {
        name: scorer.score([texts[name][i] for i in chosen]) for name, chosen in rows.items()
    }
    limit = threshold(suspicion["validation"], frr)
    seconds["score"], clock = time.monotonic() - clock, time.monotonic()
    over = suspicion["clean"] > limit
    far = lfr = left = area = None
    if triggered is not None:
        passed = int((suspicion["triggered"] <= limit).sum())
        flipped = len(rows["triggered"])
        lfr, left = proportion(flipped, len(triggered)), proportion(passed, len(triggered))
        if flipped:
            far = proportion(passed, flipped)
            area = auroc(suspicion["triggered"], suspicion["clean"], seed=watch.seed)
    cleaned = _cleaned(scorer, watch, clean, texts, said, rows, limit)
    if cleaned is not None:
        seconds["clean"] = time.monotonic() - clock
    rejected = [
        Rejected(texts["clean"][i], float(score), names[said["clean"][i]], names[clean.labels[i]])
        for i, score in zip(rows["clean"], suspicion["clean"], strict=True)
        if score > limit
    ]
    return Detection(
        judged="all" if target is None else f"predicted as {names[target]}",
        threshold=limit,
        validation=len(rows["validation"]),
        frr=proportion(int(over.sum()), len(over)),
        far=far,
        auroc=area,
        lfr=lfr,
        lfr_left=left,
        cleaned=cleaned,
        rejected=tuple(sorted(rejected, key=lambda row: -row.suspicion)),
        notes=_notes(watch, texts, scorer),
        seconds=seconds,
    )


def threshold(suspicion: Floats, frr: float) -> float:
    """Return the value that at most the share ``frr`` of clean suspicions is above."""
    may = math.floor(frr * len(suspicion) + 1e-9)
    return float(np.sort(suspicion)[::-1][may])


def _check_enough(count: int, drawn: int, frr: float, target: bool) -> None:
    need = math.ceil(1 / frr - 1e-9)
    if count < need:
        what = f" of {drawn} are predicted as the target and" if target else ""
        raise UserError(
            f"a false rejection rate of {frr:g} cannot be set on so few validation texts:"
            f" {count}{what} count",
            f"{need} are needed: give more in --validation, a larger --limit, or a larger --frr",
        )


def _drawn(split: Split, limit: int, seed: int, name: str) -> Split:
    if not limit or len(split) <= limit:
        return split
    order = torch.randperm(len(split), generator=stream(seed, "detect", name)).tolist()
    return split.take(order[:limit])


def _said(watch: Watch, texts: Sequence[str]) -> list[int]:
    if not texts:
        return []
    found: list[int] = watch.probabilities(texts).argmax(-1).tolist()
    return found


def _cleaned(
    scorer: Scorer,
    watch: Watch,
    clean: Split,
    texts: Mapping[str, Sequence[str]],
    said: dict[str, list[int]],
    rows: dict[str, list[int]],
    limit: float,
) -> Cleaned | None:
    """Take suspected words out of the judged texts and predict these again."""
    if not isinstance(scorer, Cleaner):
        return None
    again, changed = {}, 0
    for name in ("clean", "triggered"):
        before = [texts[name][i] for i in rows[name]]
        after = scorer.clean(before, limit)
        again[name] = list(said[name])
        for row, answer in zip(rows[name], _said(watch, after), strict=True):
            again[name][row] = answer
        if name == "clean":
            changed = sum(a != b for a, b in zip(before, after, strict=True))
    right, total = {}, len(clean)
    for kind, answers in (("before", said["clean"]), ("after", again["clean"])):
        right[kind] = sum(a == b for a, b in zip(answers, clean.labels, strict=True))
    lfr = None
    if texts["triggered"]:
        hits = sum(answer == watch.target for answer in again["triggered"])
        lfr = proportion(hits, len(again["triggered"]))
    return Cleaned(
        proportion(right["before"], total),
        proportion(right["after"], total),
        lfr,
        proportion(changed, len(rows["clean"])),
    )


def _notes(watch: Watch, texts: Mapping[str, Sequence[str]], scorer: Scorer) -> tuple[str, ...]:
    notes = list(scorer.notes)
    everything = [text for part in texts.values() for text in part]
    split = Split(tuple(everything), (0,) * len(everything))
    cut = encode(split, watch.suspect, watch.runtime.max_length).truncated
    if cut:
        notes.append(f"{cut} texts were cut: the model reads less (--compute max_length=N)")
    single = sum(len(text.split()) < 2 for text in everything)
    if single:
        notes.append(f"{single} texts have one word, too few to compare it with others")
    return tuple(notes)
