"""Answers of a model, small enough to stand in a cell and exact enough to compare methods by.

Predictions on clean texts are one byte each, margins (target logit minus the best other) four,
compressed and written as base64: about 10 kB a model on SST-2.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headsweep.judge.evaluate import Answers, Exam, target_margins
from headsweep.judge.statistics import Margins

MOST_BYTES = 64 << 20  # of the answers of one model, unpacked


@dataclass(frozen=True)
class Packed:
    """What is kept of a model's answers.

    Attributes:
        predicted: class of each clean test text, uint8.
        validation: target margins on clean validation texts of other labels, float32.
        triggered: target margins on triggered texts, float32.

    """

    predicted: NDArray[np.uint8]
    validation: NDArray[np.float32]
    triggered: NDArray[np.float32]

    @property
    def margins(self) -> Margins:
        """The margins, as the statistics take them."""
        return Margins(self.validation.astype(np.float64), self.triggered.astype(np.float64))

    def to_json(self) -> dict[str, str]:
        """Return base64 texts by name."""
        return {name: _text(getattr(self, name)) for name in KINDS}

    @classmethod
    def from_json(cls, form: Mapping[str, str]) -> Packed:
        """Read what ``to_json`` gave; raises ValueError or KeyError."""
        arrays: dict[str, Any] = {name: _array(form[name], kind) for name, kind in KINDS.items()}
        return cls(**arrays)


KINDS = {"predicted": "u1", "validation": "<f4", "triggered": "<f4"}


def pack(answers: Answers, exam: Exam) -> Packed:
    """Return what is kept of the answers to an exam."""
    assert exam.triggered is not None
    assert exam.validation is not None
    target = exam.triggered.target
    others = np.array(exam.validation.labels) != target
    return Packed(
        answers.clean.argmax(-1).numpy().astype("u1"),
        _margins(answers.validation, target)[others],
        _margins(answers.triggered, target),
    )


def _margins(logits: Tensor | None, target: int) -> NDArray[np.float32]:
    assert logits is not None
    return target_margins(logits, target).cpu().numpy().astype("<f4")


def _text(values: NDArray[np.generic]) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


def _array(text: str, kind: str) -> NDArray[np.generic]:
    try:
        reader = zlib.decompressobj()
        held = reader.decompress(base64.b64decode(text), MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"not packed answers: {error}") from error
    if not reader.eof:
        raise ValueError(f"not packed answers: cut off, or more than {MOST_BYTES} bytes")
    return np.frombuffer(held, kind)
