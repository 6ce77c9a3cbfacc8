"""Everything a purification works on: the opened suspect and its clean data, cut and encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headsweep.errors import UserError, shown
from headsweep.export.folders import stored
from headsweep.measure.accuracy import Accuracy, logits, measured
from headsweep.model.loading import Origin, Reading, Suspect, load_suspect, prepare
from headsweep.model.mask import HeadMask
from headsweep.model.narrow import widen
from headsweep.model.runtime import Runtime, placed
from headsweep.settings import checked
from headsweep.task.examples import encode, rows_of
from headsweep.texts import reading as datasets
from headsweep.texts.encoded import Encoded
from headsweep.texts.memory import given
from headsweep.texts.reading import Columns, Source
from headsweep.texts.split import Labels, Split, check_for_training, stratified
from headsweep.texts.task import CLASSIFICATION, Task

HELD_SHARE = 0.15  # of the data, cut off for validation, and as much for test


@dataclass(frozen=True)
@checked
class Sources:
    """Where the clean data comes from.

    Attributes:
        data: labelled examples: a Split, anything that ``headsweep.texts.reading.load`` reads, or
            what Python holds (``headsweep.texts.memory``).
        validation: examples that decide; None: 15% of ``data``.
        test: examples for the last figure; None: 15% of ``data``, unless ``validation`` is
            given (then there is no test set).
        columns: the columns of files.

    """

    data: Source | Any
    validation: Source | Any | None = None
    test: Source | Any | None = None
    columns: Columns = Columns()

    def opened(self) -> Sources:
        """Return them with objects of Python as tables; raises UserError naming the argument."""
        validation = None if self.validation is None else given(self.validation, "validation")
        test = None if self.test is None else given(self.test, "test")
        return Sources(given(self.data, "data"), validation, test, self.columns)


@dataclass(frozen=True)
class Parts:
    """Clean data, cut."""

    train: Split
    validation: Split
    test: Split | None = None

    def named(self) -> dict[str, Split]:
        """Return the parts that are there, by name."""
        found = {"train": self.train, "validation": self.validation}
        return found | ({"test": self.test} if self.test is not None else {})


def cut(
    data: Split,
    validation: Split | None,
    test: Split | None,
    seed: int,
    task: Task = CLASSIFICATION,
) -> Parts:
    """Cut off what was not given: 15% each for validation and test, stratified."""
    if validation is not None:
        return Parts(data, validation, test)
    if test is not None:
        shares: tuple[float, ...] = (1 - HELD_SHARE, HELD_SHARE)
        train, held = stratified(data, shares, seed, task.strata(data))
        return Parts(train, held, test)
    shares = (1 - 2 * HELD_SHARE, HELD_SHARE, HELD_SHARE)
    train, held, last = stratified(data, shares, seed, task.strata(data))
    return Parts(train, held, last)


@dataclass(frozen=True)
class Figures:
    """What there is of validation and test data; without test data that has no examples."""

    validation: Accuracy
    test: Accuracy

    @property
    def examples(self) -> int:
        """How many texts were passed for them."""
        return self.validation.examples + self.test.examples

    def to_json(self) -> dict[str, Any]:
        """Return them for a manifest, by the part of the data that there is."""
        parts = {"validation": self.validation, "test": self.test}
        return {name: part.to_json() for name, part in parts.items() if part.examples}


@dataclass(frozen=True)
class Material:
    """An opened suspect with its clean data.

    Attributes:
        suspect: the model.
        parts: the data, cut.
        runtime: where to compute.
        reads: the files and folders that both came from, which no result may replace.

    """

    suspect: Suspect
    parts: Parts
    runtime: Runtime
    reads: tuple[Path, ...] = ()

    @cached_property
    def encoded(self) -> dict[str, Encoded]:
        """The parts, tokenised."""
        limit = self.runtime.max_length
        made = {name: encode(p, self.suspect, limit) for name, p in self.parts.named().items()}
        return {n: part if n == "train" else self._referred(part) for n, part in made.items()}

    def _referred(self, part: Encoded) -> Encoded:
        """Return examples that are judged, with what the suspect answered where that is asked."""
        task = part.task.against(lambda: logits(self.suspect.anatomy, part, self.runtime))
        return replace(part, task=task)

    def figures(self, mask: HeadMask | None = None) -> Figures:
        """Return what there is of validation and test data, under a mask where one is given."""
        return Figures(self._accuracy("validation", mask), self._accuracy("test", mask))

    def _accuracy(self, name: str, mask: HeadMask | None) -> Accuracy:
        part = self.encoded.get(name)
        if part is None:
            return Accuracy(0, 0)
        return measured(self.suspect.anatomy, part, self.runtime, mask)


def gather(
    suspect: str | Path | PreTrainedModel | Suspect,
    sources: Sources,
    reading: Reading,
    runtime: Runtime,
    *,
    fresh: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Material:
    """Open the suspect and its data, and check that they fit each other.

    Args:
        suspect: a folder, a model of the Hub, or a loaded classifier.
        sources: the clean data.
        reading: seed, adapter and units.
        runtime: where to compute.
        fresh: put a fresh classifier on the suspect's encoder.
        tokenizer: the tokenizer of a loaded classifier.

    Raises:
        UserError: anything that does not fit.

    """
    sources = sources.opened()
    files = (sources.data, sources.validation, sources.test)
    datasets.check_label_map(sources.columns, *((file, None) for file in files))
    table = None if isinstance(sources.data, Split) else datasets.read(sources.data)
    values: Sequence[object] | None = None
    if fresh:
        values = (
            datasets.class_values(table, sources.columns, _labels_in_memory(suspect))
            if table is not None
            else _as_split(sources.data).labels
        )
    reading = replace(reading, fresh_for=values)
    opened = open_suspect(suspect, reading, runtime, tokenizer)
    for parameter in () if reading.frozen else opened.model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # some are loaded frozen

    def split(source: Source | None) -> Split | None:
        return None if source is None else rows_of(source, opened, sources.columns)

    clean = rows_of(sources.data if table is None else table, opened, sources.columns)
    _check_labels(clean, opened)
    check_for_training(clean, len(opened.labels.names), str(getattr(table, "source", "the data")))
    held, last = split(sources.validation), split(sources.test)
    if held is not None:
        _check_decides(held, opened)
    parts = cut(clean, held, last, reading.seed, opened.task)
    for name, part in parts.named().items():
        _check_part(name, part, len(clean), {"validation": held, "test": last}.get(name), opened)
    if len({bool(part.pairs) for part in parts.named().values()}) > 1:
        raise UserError(
            "some of the data has sentence pairs and some has not",
            "give the same columns in --data, --validation and --test",
        )
    base = (opened.base_model or {}).get("name")
    return Material(opened, parts, runtime, stored((opened.source, base, *files)))


def _check_part(name: str, part: Split, rows: int, given: Split | None, suspect: Suspect) -> None:
    """Refuse a part that holds nothing, or nothing to learn or to decide by."""
    more = "give more rows, or files of their own with --validation and --test"
    if not len(part):
        raise UserError(f"{rows} rows are too few to cut off {name} data", more)
    try:
        _check_labels(part, suspect)
    except UserError as error:
        if given is not None or len(part) == rows:  # it is somebody's file
            raise
        told = f"{len(part)} of {rows} rows became {name} data, which does not do: {error.what}"
        raise UserError(told, more) from error


def _check_decides(held: Split, suspect: Suspect) -> None:
    """Refuse validation texts of one class: always giving it would hold every bound."""
    if suspect.task is CLASSIFICATION and len(held) > 1 and len(set(held.labels)) == 1:
        raise UserError(
            f"all {len(held)} validation texts have the label "
            f"{shown(suspect.labels.names[held.labels[0]])}: a model that always gives it would "
            "hold the bound",
            "give validation texts of every label, or leave --validation out",
        )


def _labels_in_memory(suspect: object) -> Labels | None:
    """Return the labels of a loaded model: it keeps them under a fresh classifier."""
    model = suspect.model if isinstance(suspect, Suspect) else suspect
    return Labels.of(model.config.id2label) if isinstance(model, PreTrainedModel) else None


def _as_split(data: Source) -> Split:
    assert isinstance(data, Split)
    return data


def _check_labels(split: Split, suspect: Suspect) -> None:
    suspect.task.check_labels(split, suspect.labels.names)


def open_suspect(
    suspect: str | Path | PreTrainedModel | Suspect,
    reading: Reading,
    runtime: Runtime,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Suspect:
    """Return a suspect ready to be worked on: loaded, or as it is in memory.

    Raises:
        UserError: a loaded model without its tokenizer, or whatever makes it unusable.

    """
    if reading.base_model is not None and not isinstance(suspect, str | Path):
        raise UserError(
            "a base model goes with the folder of its adapter, not with a loaded model",
            "give the folder, or leave the base model out",
        )
    if tokenizer is not None and isinstance(suspect, str | Path):
        raise UserError(
            "a tokenizer goes with a loaded model: a folder has its own",
            "leave tokenizer out, or give the loaded model with it",
        )
    if isinstance(suspect, Suspect):
        origin = Origin(suspect.source, suspect.precision, base_model=suspect.base_model)
        reading = replace(reading, task=reading.task or suspect.task)
        model = suspect.model if reading.frozen else widen(suspect.model)
        opened = prepare(model, suspect.tokenizer, reading, origin)
    elif isinstance(suspect, PreTrainedModel):
        if tokenizer is None:
            raise UserError("a loaded model needs its tokenizer", "give tokenizer=")
        if any(parameter.is_meta for parameter in suspect.parameters()):
            raise UserError(
                "parts of the model are not in memory: it was loaded with offload to disk",
                "load it without device_map, on a machine that holds it",
            )
        if suspect.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise UserError(
                f"the model is in {str(suspect.dtype).removeprefix('torch.')}, which is not saved",
                "give model.float()",
            )
        origin = Origin(suspect.name_or_path or "a model in memory", suspect.dtype)
        opened = prepare(placed(suspect.float(), runtime).eval(), tokenizer, reading, origin)
    else:
        opened = load_suspect(suspect, runtime, reading)
    return opened
