"""A classifier of texts as an ONNX file, which answers as the model does or is not written.

torch's own exporter writes it, in float32, with a free number of texts and tokens. The file is then
run by onnxruntime on real sentences and compared. The smaller form has its weights in eight bits;
what that does to the answers is for whoever asks to measure.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headsweep.errors import MissingExtra, UserError, shortened
from headsweep.export.model_folder import gap_of
from headsweep.measure.accuracy import Accuracy, counted, in_order
from headsweep.model.checkpoint import quiet
from headsweep.model.loading import Suspect
from headsweep.progress import Progress
from headsweep.task.examples import encode
from headsweep.texts.encoded import Encoded
from headsweep.texts.split import Split
from headsweep.texts.task import CLASSIFICATION, WholeTexts, taken

WHOLE, SMALL = "model.onnx", "model_quantized.onnx"  # the names that Optimum looks for
TOLERANCE = 1e-3  # between torch and onnxruntime, as ``gap_of`` says
SHAPES = (1, 3, 8)  # texts a batch
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SENTENCES = (
    "A warm and funny film.",
    "It is far too long, and nobody on the screen seems to know why they are there.",
    "Not bad!",
    "I would not go again, but my sister cried twice and has already bought the book, the music, "
    "and a ticket for next Sunday; so there is something in it for those who like to be moved.",
    "The second half is better than the first.",
    "Dull.",
    "Costs 12.50 and was not worth 3.",
    "An old story, told as if for the first time.",
)


class _Logits(nn.Module):
    """A model that takes its inputs in a fixed order and gives logits alone."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        found: Tensor = self.model(
            **dict(zip(self.names, inputs, strict=True)),
            **taken(self.model, use_cache=False),  # type: ignore[arg-type]
        ).logits
        return found


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that onnxruntime has opened: ``inputs`` are the names of what it takes."""

    path: Path
    session: Any
    inputs: tuple[str, ...]

    @classmethod
    def opened(cls, path: Path) -> OnnxFile:
        """Open a file on the processor; raises UserError where onnxruntime cannot."""
        runtime = needed_packages()[1]
        try:
            session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # it has an exception of its own for every kind of file
            raise UserError(f"onnxruntime cannot run {path.name}: {_first(error)}") from error
        return cls(path, session, tuple(given.name for given in session.get_inputs()))

    @property
    def size(self) -> int:
        """Bytes of the file, and of the weights that lie beside it where there are over 2 GiB."""
        return sum(part.stat().st_size for part in self.path.parent.glob(f"{self.path.name}*"))

    def forward(self, **inputs: Tensor) -> SimpleNamespace:
        """Return the answers as transformers does: ``logits``, [text, ...]."""
        given = {name: inputs[name].numpy() for name in self.inputs}
        return SimpleNamespace(logits=torch.from_numpy(self.session.run(None, given)[0]))

    __call__ = forward  # called as the model is that it was written from

    def accuracy(self, examples: Encoded, size: int, progress: Progress) -> Accuracy:
        """Return what it answers to examples, in batches of so many, counted as their task does."""
        model, task = cast("PreTrainedModel", self), examples.task
        found = []
        with progress.task(f"{self.path.name} on the data", len(examples)) as tick:
            for batch in examples.batches(size):
                found.append((batch.index, *task.said(model, batch)))
                tick(len(batch), "")
        return counted(examples, in_order(found), ())


def needed_packages() -> tuple[Any, Any]:
    """Return onnx and onnxruntime; raises MissingExtra."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter asks for it, in words of its own
    except ImportError as error:
        raise MissingExtra("ONNX", "onnx", error) from error
    return onnx, onnxruntime


def sample(suspect: Suspect, split: Split | None, limit: int) -> Encoded:
    """Return as many sentences as the check takes: the first of some examples, or made-up ones."""
    most = max(SHAPES)
    texts = SENTENCES[:most] if split is None else split.texts[:most]
    pairs = () if split is None else split.pairs[:most]
    texts = (texts * most)[:most]
    only_texts = replace(suspect, task=CLASSIFICATION)  # whatever the answers mean
    return encode(Split(texts, (0,) * most, (pairs * most)[:most]), only_texts, limit)


def write(suspect: Suspect, path: Path, sentences: Encoded) -> OnnxFile:
    """Write a classifier, which is in float32 on the processor, as an ONNX file.

    Args:
        suspect: the classifier.
        path: the file to write.
        sentences: texts that the exporter follows through the model.

    Raises:
        UserError: the model is no classifier, or the exporter cannot follow it.
        MissingExtra: a package is not installed.

    """
    needed_packages()
    if not isinstance(suspect.task, WholeTexts):
        raise UserError(
            f"this model was trained to {suspect.task.does}; only models that read a whole text "
            "and give it one answer are written as ONNX",
            "use a tool that writes the others too, such as Optimum",
        )
    given = sentences.batch(range(2)).inputs
    names = tuple(given)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with quiet(), _hushed():
            program = torch.onnx.export(
                _Logits(suspect.model, names).eval(),
                tuple(given.values()),
                dynamic_shapes={"inputs": tuple(free for _ in names)},
                input_names=list(names),
                output_names=["logits"],
                dynamo=True,
                verbose=False,
            )
            if program is None:
                raise RuntimeError("it gave nothing")
            program.save(str(path))
    except OSError:
        raise
    except Exception as error:  # whatever a model's code does under the exporter
        raise UserError(
            f"torch {torch.__version__} cannot write {type(suspect.model).__name__} as ONNX: "
            f"{_first(error)}",
            "another version of torch or onnxscript (pip install --upgrade onnxscript) may; "
            "--debug shows all of it",
        ) from error
    return OnnxFile.opened(path)


@torch.inference_mode()
def difference(suspect: Suspect, file: OnnxFile, sentences: Encoded) -> float:
    """Return the largest difference of a logit from the model's, over three shapes of batches.

    As ``gap_of`` counts it.
    """
    largest = 0.0
    for count in SHAPES:
        batch = sentences.batch(range(count))
        own = suspect.task.answers(suspect.model, batch)
        try:
            found = file(**batch.inputs).logits
        except Exception as error:  # onnxruntime's own
            raise UserError(
                f"onnxruntime fails on {count} texts of {batch.inputs['input_ids'].shape[1]} "
                f"tokens: {_first(error)}",
                "nothing was written; another version of torch may write it right",
            ) from error
        largest = max(largest, gap_of(found, own))
    return largest


def check(suspect: Suspect, file: OnnxFile, sentences: Encoded) -> float:
    """Return ``difference``; raises UserError where it is more than rounding."""
    found = difference(suspect, file, sentences)
    if not found <= TOLERANCE:
        raise UserError(
            f"the ONNX file answers otherwise than the model: logits differ by {found:.2g}, "
            f"{TOLERANCE:g} is allowed",
            "nothing was written; another version of torch may write it right",
        )
    return found


def quantized(file: OnnxFile) -> OnnxFile:
    """Write the same file beside it with its weights in eight bits; raises UserError.

    One scale a column, and seven of the eight bits: processors without VNNI add two products in
    16 bits, which overflow with eight (onnxruntime's page on quantisation, ``reduce_range``).
    What flows through is scaled as it comes, by all of a batch: so an answer depends a little on
    the texts beside it.
    """
    path = file.path.with_name(SMALL)
    from onnxruntime.quantization import QuantType, quantize_dynamic

    try:
        with _hushed():
            quantize_dynamic(
                file.path,
                path,
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
            )
    except OSError:
        raise
    except Exception as error:  # onnxruntime's own
        raise UserError(
            f"onnxruntime cannot write eight bits: {_first(error)}",
            "leave out --int8, or pip install --upgrade onnxruntime (1.32 can)",
        ) from error
    return OnnxFile.opened(path)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep back what exporter and quantizer say on the way: it concerns their own packages.

    Where nothing listens to the root logger, the quantizer would put something there that prints
    whatever any package says from then on.
    """
    root, nobody = logging.getLogger(), logging.NullHandler()
    root.addHandler(nobody)
    loggers = [logging.getLogger(name) for name in ("", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # it prints graphs there
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(nobody)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first(error: BaseException) -> str:
    """Return the first line of what caused an error of another package, which may be coloured."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in COLOUR.sub("", str(error)).splitlines() if line.strip()]
    return shortened(lines[0], 200) if lines else type(error).__name__
