"""Regression: a model gives a text, or a pair of texts, a number (rankers, reward models).

An example is a text and its true number, on the scale of the model's own output. Its loss is the
squared error over the variance of the true numbers. An example is *right*, or kept, while its
error has risen by at most ``SLACK`` standard deviations of the true numbers above the suspect's,
which is measured before anything is pruned. A model whose output is blurred by normal noise until
one example in fifty is not kept loses about 0.02 of a correlation: so a bound means about the same
for the share kept, which a search counts, and for Spearman's correlation, which the bound holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from headsweep.errors import UserError, shown
from headsweep.texts.reading import LABEL_NAMES, Columns, Table, settled, texts_of, without_empty
from headsweep.texts.split import Labels, Split
from headsweep.texts.task import ONE_LABEL, Tokens, WholeTexts, known, tokenised
from headsweep.texts.words import REGRESSION as REGRESSION_WORDS
from headsweep.texts.words import SLACK, Words

NUMBER_NAMES = ("score", "number", "value", "rating", "similarity", "reward", *LABEL_NAMES)
LARGEST = 1e15  # of a number in size: its square, summed over rows, is still a float32
STRATA = 4  # of the true numbers, so that every part of the data has low and high ones
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Regression(WholeTexts):
    """One number a text.

    A label is the number of an example in its split, of which the task knows:

    Attributes:
        numbers: the true number.
        reference: the suspect's error, of the same unit; empty: not measured.

    """

    words: ClassVar[Words] = REGRESSION_WORDS
    head: ClassVar[str] = "head that gives a number"
    does: ClassVar[str] = "give texts a number"
    fix: ClassVar[str] = "get the checkpoint with its head, as AutoModelForSequenceClassification"
    numbers: tuple[float, ...] = ()
    reference: tuple[float, ...] = ()

    def takes(self, config: Any, architectures: Sequence[str]) -> bool:
        """Take sequence classifiers of one output, and those that say they are for regression."""
        one = config.num_labels == 1 or getattr(config, "problem_type", None) == "regression"
        return one and bool(architectures) and all(x.endswith(self.heads) for x in architectures)

    def check(self, config: Any) -> None:
        """Refuse models of several outputs."""
        if config.num_labels != 1:
            raise UserError(
                f"this model gives every text {config.num_labels} numbers",
                "only one number a text is supported",
            )

    def one_label(self, what: str) -> None:
        """Refuse: there are none."""
        raise UserError(f"{what} needs labels, and this model gives a number", ONE_LABEL)

    def names(self, config: Any) -> Labels:
        """Return none."""
        del config
        return Labels(())

    def pick(
        self, table: Table, columns: Columns, labels: Labels, tokenizer: PreTrainedTokenizerBase
    ) -> Split:
        """Pick texts, pairs of texts, and numbers."""
        del labels, tokenizer
        if columns.label_map:
            raise UserError(
                "--label-map is for labels, and this model gives a number", "leave it out"
            )
        columns = settled(table, columns, names=NUMBER_NAMES)
        table = without_empty(table, columns)
        texts, pairs = texts_of(table, columns)
        assert columns.label is not None
        cells = table.column(columns.label, columns.option("label"))
        numbers = [_number(cell) for cell in cells]
        for row, number in enumerate(numbers):
            if number is None:
                raise UserError(
                    f"{table.cell(columns.label, row)} is not a number: {shown(cells[row])}",
                    f"this model gives a number, at most {LARGEST:g} in size: name the column of "
                    f"the true ones with {columns.option('label')}, or remove the row",
                )
        return Split(texts, tuple(numbers), pairs)

    def check_labels(self, split: Split, names: tuple[str, ...]) -> None:
        """Refuse what is no number, and numbers that are all the same."""
        del names
        if not all(_number(label) is not None for label in split.labels):
            raise UserError("the data has labels that are no numbers", "this model gives a number")
        if len(set(split.labels)) == 1:
            raise UserError(
                f"all {len(split)} rows have the number {split.labels[0]:g}: they are in no order",
                "Spearman's correlation needs different numbers",
            )

    def strata(self, split: Split) -> Sequence[int]:
        """Return the quarter of the numbers that each row's is in."""
        ranks = rankdata(split.labels, method="ordinal")
        found: list[int] = ((ranks - 1) * STRATA // max(1, len(split))).astype(int).tolist()
        return found

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, limit: int) -> Tokens:
        """Tokenise texts, and second texts where there are pairs, cut as the tokenizer cuts."""
        task = Regression(tuple(map(float, split.labels)))
        return tokenised(split, tokenizer, limit, tuple(range(len(split))), task)

    def against(self, measure: Callable[[], Tensor]) -> Regression:
        """Return it with the suspect's error of every example."""
        errors = (measure()[:, 0] - self._numbers).abs()
        return replace(self, reference=tuple(errors.tolist()))

    def beside(
        self, said: Sequence[Tensor], labels: Tensor, names: Sequence[str]
    ) -> dict[str, float]:
        """Return Spearman's correlation, and the mean absolute error."""
        del names
        told, true = (
            x.cpu().double().numpy() for x in (said[0][:, 0], known(self._numbers, labels))
        )
        return {
            "spearman": spearman(told, true),
            "mean_absolute_error": float(np.abs(told - true).mean()),
        }

    def blind(self, labels: Sequence[int], right: int, beside: Mapping[str, float]) -> str:
        """Compare with always giving the median of the true numbers."""
        del labels, right
        true = np.array(self.numbers)
        guess = float(np.abs(true - np.median(true)).mean())
        if beside["mean_absolute_error"] < guess:
            return ""
        return (
            f"mean absolute error before pruning is {beside['mean_absolute_error']:.3g}, no better "
            f"than always giving the median ({guess:.3g}), as where the true numbers are not on "
            "the scale of the model's own output"
        )

    def losses(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return the squared error over the variance of the true numbers, [example]."""
        return (answers[:, 0] - known(self._numbers, labels)).square() / self._spread**2

    def margins(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return by how much less than the slack the error rose above the suspect's, [example].

        In standard deviations of the true numbers.
        """
        errors = (answers[:, 0] - known(self._numbers, labels)).abs()
        return SLACK + (known(self._reference, labels) - errors) / self._spread

    @cached_property
    def _numbers(self) -> Tensor:
        return torch.tensor(self.numbers)

    @cached_property
    def _reference(self) -> Tensor:
        return torch.tensor(self.reference)

    @cached_property
    def _spread(self) -> float:
        return float(np.std(self.numbers)) or 1.0


REGRESSION = Regression()


def spearman(said: Floats, true: Floats) -> float:
    """Return Spearman's rank correlation, ties sharing their rank; of what is all the same 0.

    Nothing is in any order there, which is no better than a guess.
    """
    ranks = [rankdata(x) for x in (said, true)]
    if any(float(x.std()) == 0 for x in ranks):
        return 0.0
    return float(np.clip(np.corrcoef(*ranks)[0, 1], -1, 1))


def _number(cell: object) -> float | None:
    """Return a cell's number; None: it holds none that is finite, or one too large to square."""
    if isinstance(cell, bool | np.bool_) or not isinstance(cell, str | Real | Decimal):
        return None
    try:
        found = float(cell)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and abs(found) <= LARGEST else None
