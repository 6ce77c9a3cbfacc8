"""``export``: a classifier as ONNX, checked by onnxruntime, and in eight bits within a bound."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from headsweep.drafts import EXPORT, write_json
from headsweep.errors import BoundMissed, UserError
from headsweep.export import onnx_file
from headsweep.export.folders import drafted, kept_free
from headsweep.export.onnx_file import OnnxFile
from headsweep.export.provenance import environment
from headsweep.measure.accuracy import Accuracy, logits, measured
from headsweep.model.families import Adapter
from headsweep.model.loading import Suspect
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress, reporting
from headsweep.purification.bound import Bound
from headsweep.settings import fitting
from headsweep.task.examples import encode, rows_of
from headsweep.texts.encoded import Encoded
from headsweep.texts.memory import given
from headsweep.texts.reading import Columns
from headsweep.texts.split import Split
from headsweep.verbs.arguments import Fields, columns_of, one_of, opened, runtime_of

FORMAT = "headsweep.export/1"
FORMATS = ("onnx",)


@dataclass(frozen=True)
class Written:
    """One ONNX file that was written.

    Attributes:
        name: its name in the folder.
        size: its bytes, those of weights beside it too.
        difference: the largest difference of a logit from the model's on the sentences tried.
        accuracy: on the data; None: none was given.

    """

    name: str
    size: int
    difference: float
    accuracy: Accuracy | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        told = {"file": self.name, "bytes": self.size, "largest_difference": self.difference}
        return told | ({"data": self.accuracy.to_json()} if self.accuracy else {})


@dataclass(frozen=True)
class Exported:
    """What ``export_onnx`` wrote.

    Attributes:
        folder: where the files are.
        model: where the model came from.
        files: the ONNX file, and the one in eight bits where that was asked for.
        batch_size: how many texts a batch held; in eight bits answers depend a little on it.
        before: the model's own accuracy on the data; None: none was given.

    """

    folder: Path
    model: str
    files: tuple[Written, ...]
    batch_size: int
    before: Accuracy | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "format": FORMAT,
            "model": self.model,
            "versions": environment("onnx", "onnxscript", "onnxruntime"),
            "files": [one.to_json() for one in self.files],
            "batch_size": self.batch_size,
            "before": None if self.before is None else self.before.to_json(),
        }


def export_onnx(
    model: Any,
    out: str | Path,
    *,
    format: str = "onnx",
    int8: bool = False,
    data: Any = None,
    max_drop: float | None = None,
    adapter: Adapter | str | Path | None = None,
    column: Columns | Fields = None,
    label_map: Fields = None,
    compute: Runtime | Fields = None,
    tokenizer: Any = None,
    overwrite: bool = False,
    progress: bool | Progress | None = True,
) -> Exported:
    """Write a classifier of texts as ONNX, in a folder that Optimum loads; check what it answers.

    So is a model of several labels a text, or of one number.
    ``model.onnx`` takes any number of texts and tokens. onnxruntime's logits are compared with
    the model's on real sentences in batches of 1, 3 and 8; a file that differs is not written.

    Args:
        model: a folder, a name on the Hub, a purified model, or a loaded classifier.
        out: the folder to write.
        format: ``"onnx"``.
        int8: write ``model_quantized.onnx`` too, its weights in eight bits. Needs ``data``.
        data: clean labelled texts, in any form that ``purify`` takes, to measure both files on.
        max_drop: how far accuracy on ``data`` may fall in eight bits, a fraction, or micro-F1, or
            Spearman's correlation and the share kept, where the model is for these; None: 0.02,
            of under 250 examples five answers, at most 0.1.
        adapter: how an unknown architecture is laid out: an object, or its TOML file.
        column: which columns hold what, as for ``purify``.
        label_map: labels of the data and the labels that they mean.
        compute: how to compute, as ``{"batch_size": 8}``, or ``Runtime``; on the processor.
        tokenizer: the tokenizer of a loaded classifier.
        overwrite: replace ``out``, where headsweep wrote it.
        progress: True: shown, on a terminal or in a notebook; False: not; or an object.

    Raises:
        UserError: what cannot be exported, or a file that answers otherwise.
        BoundMissed: eight bits cost more accuracy than allowed; nothing was written.
        MissingExtra: ``headsweep[onnx]`` is not installed.

    """
    one_of(format, FORMATS, "--format")
    folder = Path(fitting(out, Path, "out"))
    if int8 and data is None:
        raise UserError(
            "eight bits change answers, so they are measured on your data", "give --data FILE"
        )
    if max_drop is not None and not int8:
        raise UserError("--max-drop is of --int8", "add --int8, or leave it out")
    bound = Bound(max_drop)
    onnx_file.needed_packages()
    held = (getattr(model, name, None) for name in ("name_or_path", "source"))
    with kept_free(folder, overwrite, (model, data, *held, *getattr(model, "reads", ()))):
        runtime, show = runtime_of("cpu", compute), reporting(progress)
        suspect = opened(model, runtime, adapter, tokenizer, classifier=False)
        suspect.tell_doubts(show)
        split = None
        if data is not None:
            split = rows_of(given(data, "data"), suspect, columns_of(column, label_map))
            suspect.task.check_labels(split, suspect.labels.names)
        sentences = onnx_file.sample(suspect, split, runtime.max_length)
        usual = sentences
        with suppress(UserError):  # its tokenizer may read no English
            usual = (
                sentences if split is None else onnx_file.sample(suspect, None, runtime.max_length)
            )
        shown_to = [sentences] if usual is sentences else [sentences, usual]
        examples = None if split is None else _referred(suspect, split, runtime)
        with drafted(folder, overwrite) as draft:
            with show.task("writing ONNX", 1) as tick:
                file = onnx_file.write(suspect, draft / onnx_file.WHOLE, usual)
                tick(1, "")
            gap = max(onnx_file.check(suspect, file, one) for one in shown_to)
            before = None
            if examples is not None:
                with show.task("the model on the data", 1) as tick:
                    before = measured(suspect.anatomy, examples, runtime)
                    tick(1, "")
            files = [_written(file, gap, examples, runtime, show)]
            if int8 and before is not None:
                small = onnx_file.quantized(file)
                gap = onnx_file.difference(suspect, small, sentences)
                files.append(_written(small, gap, examples, runtime, show))
                _hold(files[-1], bound, before)
            _complete(suspect, draft)
            found = Exported(folder, suspect.source, tuple(files), runtime.batch_size, before)
            write_json(draft / EXPORT, found.to_json())
    return found


def _referred(suspect: Suspect, split: Split, runtime: Runtime) -> Encoded:
    """Return examples with what the model answered where their task compares with it."""
    found = encode(split, suspect, runtime.max_length)
    task = found.task.against(lambda: logits(suspect.anatomy, found, runtime))
    return replace(found, task=task)


def _written(
    file: OnnxFile, gap: float, examples: Encoded | None, runtime: Runtime, show: Progress
) -> Written:
    accuracy = None if examples is None else file.accuracy(examples, runtime.batch_size, show)
    return Written(file.path.name, file.size, gap, accuracy)


def _hold(small: Written, bound: Bound, before: Accuracy) -> None:
    """Raise BoundMissed where eight bits cost more than allowed of what the task is held to."""
    allowed = bound.allowance(before)
    found = small.accuracy
    if found is None:
        return
    words = found.words
    holds = allowed.held_by(found)
    checks = [(words.held_name, found.held, before.held, allowed.worst, holds)]
    if words.order:
        kept = found.right >= allowed.need
        checks.append((words.share, found.value, before.value, allowed.lowest, kept))
    for name, got, own, worst, holds in checks:
        if not holds:
            raise BoundMissed(
                f"in eight bits {name} is {got:.4f}, the model's own is {own:.4f}; at least "
                f"{worst:.4f} is allowed: nothing was written\n"
                "  fix: leave out --int8, or raise --max-drop"
            )


def _complete(suspect: Suspect, draft: Path) -> None:
    """Add what tells a reader how to use the file: configuration and tokenizer."""
    config = suspect.model.config
    dtype, config.dtype = config.dtype, torch.float32
    try:
        config.save_pretrained(draft)
    finally:
        config.dtype = dtype
    suspect.tokenizer.save_pretrained(draft)
