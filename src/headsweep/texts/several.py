"""Several labels a text at once: each label is there or is not, whatever the others are.

A label is given where its logit is above zero (a probability above one half). The loss of an
example is the mean binary cross-entropy of its labels, as transformers has it; it is *right* where
it gets all its labels and no other. Micro-F1, which the bound holds, counts every label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headsweep.errors import UserError, shown
from headsweep.texts.reading import (
    BETWEEN,
    Columns,
    Table,
    as_list,
    in_order,
    is_missing,
    settled,
    texts_of,
    without_empty,
)
from headsweep.texts.split import Labels, Split, label_text
from headsweep.texts.task import ONE_LABEL, Tokens, WholeTexts, known, tokenised
from headsweep.texts.words import SEVERAL as SEVERAL_WORDS
from headsweep.texts.words import Words

PROBLEM = "multi_label_classification"  # as configurations have it
COLUMNS = ("labels", "label", "classes", "categories", "tags")


@dataclass(frozen=True)
class SeveralLabels(WholeTexts):
    """Any number of labels a text: a row of a split has the class numbers of its own, in order.

    A label of an encoded example is its number in its split, of which the task knows:

    Attributes:
        wanted: which labels it has, [example][label].

    """

    words: ClassVar[Words] = SEVERAL_WORDS
    head: ClassVar[str] = "classifier"
    does: ClassVar[str] = "give texts labels"
    fix: ClassVar[str] = "get the checkpoint with its classifier"
    wanted: tuple[tuple[bool, ...], ...] = ()

    def takes(self, config: Any, architectures: Sequence[str]) -> bool:
        """Take sequence classifiers that say they are for several labels a text."""
        several = getattr(config, "problem_type", None) == PROBLEM
        return (
            several and bool(architectures) and all(x.endswith(self.heads) for x in architectures)
        )

    def check(self, config: Any) -> None:
        """Refuse nothing that it takes."""

    def one_label(self, what: str) -> None:
        """Refuse: there may be several, or none."""
        raise UserError(f"{what} needs one label a text, and this model gives several", ONE_LABEL)

    def load(self, name: str, **more: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Load a sequence classifier from safetensors; what is saved of it says what it is for."""
        return super().load(name, problem_type=PROBLEM, **more)

    def names(self, config: Any) -> Labels:
        """Return the labels of ``id2label``."""
        return Labels.of(config.id2label)

    def pick(
        self, table: Table, columns: Columns, labels: Labels, tokenizer: PreTrainedTokenizerBase
    ) -> Split:
        """Pick texts, pairs of texts, and the labels of each, by name or number."""
        del tokenizer
        columns = settled(table, columns, labels, COLUMNS)
        table = without_empty(table, columns)
        texts, pairs = texts_of(table, columns)
        assert columns.label is not None
        option = columns.option("label")
        cells = table.column(columns.label, option)
        _refuse_lists_in_words(table, columns, cells, labels)
        rows = [_listed(cell) for cell in cells]
        named = in_order([one for row in rows for one in row], table, columns, labels)
        told_apart = {label_text(name) for name in labels.names} >= {"0", "1"}
        if not told_apart and {label_text(one) for one in named} <= {"0", "1"}:
            _refuse_flags(table, columns.label, cells)
        flags = {type(one) is not str and one in (0, 1) for row in rows for one in row}
        if flags == {True} and {len(row) for row in rows} == {len(labels.names)}:
            raise UserError(
                f"{table.source}: every row has a zero or a one for each of the "
                f"{len(labels.names)} labels",
                "give the labels that a text has, by name, not zeros and ones for all of them",
            )
        numbers = iter(labels.indices(named, table.source, option))
        told = [tuple(sorted(islice(numbers, len(row)))) for row in rows]
        for number, row in enumerate(told):
            if len(set(row)) < len(row):
                raise UserError(
                    f"{table.cell(columns.label, number)} names a label twice: "
                    f"{shown(rows[number])}",
                    "give the labels that a text has, by name, not zeros and ones for all of them",
                )
        return Split(texts, tuple(told), pairs)

    def check_labels(self, split: Split, names: tuple[str, ...]) -> None:
        """Refuse numbers beyond the names, and texts of which none has a label."""
        if not all(isinstance(row, tuple) for row in split.labels):
            raise UserError(
                "the data has one label a text, and this model gives several",
                "a Split for it holds a tuple of class numbers for every text",
            )
        there = {label for row in split.labels for label in row}
        if not there <= set(range(len(names))):
            raise UserError(f"the data has a label {max(there)}, the model has {len(names)} labels")
        if not there:
            raise UserError(
                f"none of {len(split)} texts has a label",
                "micro-F1 needs some: name their column with --column label=NAME",
            )

    def strata(self, split: Split) -> Sequence[int]:
        """Return one number: sets of labels are too many to spread each."""
        return (0,) * len(split)

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, limit: int) -> Tokens:
        """Tokenise texts, and second texts where there are pairs, cut as the tokenizer cuts."""
        width = 1 + max((label for row in split.labels for label in row), default=0)
        wanted = tuple(tuple(label in row for label in range(width)) for row in split.labels)
        numbers = tuple(range(len(split)))
        return tokenised(split, tokenizer, limit, numbers, SeveralLabels(wanted))

    def against(self, measure: Callable[[], Tensor]) -> SeveralLabels:
        """Return it as it is: labels are right or wrong whatever the suspect said."""
        del measure
        return self

    def beside(
        self, said: Sequence[Tensor], labels: Tensor, names: Sequence[str]
    ) -> dict[str, float]:
        """Return micro-F1."""
        del names
        given, true = said[0] > 0, self._of(said[0], labels)
        hits = int((given & true).sum())
        return {"micro_f1": f1(hits, int(given.sum()) - hits, int(true.sum()) - hits)}

    def blind(self, labels: Sequence[int], right: int, beside: Mapping[str, float]) -> str:
        """Compare with giving no label at all."""
        del labels, right
        return "" if beside["micro_f1"] else "the model gives no text a label that is right"

    def losses(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return the mean binary cross-entropy of each example's labels, [example]."""
        wanted = self._of(answers, labels).to(answers.dtype)
        loss = nn.functional.binary_cross_entropy_with_logits(answers, wanted, reduction="none")
        return loss.mean(-1)

    def margins(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return how far the logit of the label that is nearest to it is from being wrong.

        A logit of zero gives no label: where that is right it is so by next to nothing.
        """
        wanted = self._of(answers, labels)
        margins = torch.where(wanted, answers, -answers)
        won = ~wanted & (answers == 0)
        return margins.masked_fill(won, torch.finfo(margins.dtype).tiny).amin(-1)

    @cached_property
    def _wanted(self) -> Tensor:
        return torch.tensor(self.wanted)

    def _of(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return which labels examples have, [example, label], of all that there are."""
        found = known(self._wanted, labels)
        more = answers.shape[1] - found.shape[1]  # labels that no example of the split has
        return nn.functional.pad(found, (0, more))


SEVERAL = SeveralLabels()


def f1(hits: float, wrong: float, missed: float) -> float:
    """Return F1 from counts: given and true, given and not true, true and not given; of none 0."""
    total = 2 * hits + wrong + missed
    return 2 * hits / total if total else 0.0


def _refuse_lists_in_words(
    table: Table, columns: Columns, cells: Sequence[Any], labels: Labels
) -> None:
    """Refuse lists as Python writes them, which pandas puts into a CSV file."""
    known = {*labels.names, *(old for old, _ in columns.label_map)}
    for row, cell in enumerate(cells):
        said = cell.strip() if isinstance(cell, str) else ""
        if said[:1] == "[" and said[-1:] == "]" and not {*_listed(cell)} <= known:
            raise UserError(
                f"{table.cell(columns.label or '', row)} is a list written as text: {shown(cell)}",
                f"write the labels with {BETWEEN} between, or use JSON Lines",
            )


def _refuse_flags(table: Table, name: str, cells: Sequence[Any]) -> None:
    """Refuse a column of zeros and ones, of which each says whether a text has one label."""
    single = all(as_list(cell) is None and BETWEEN not in str(cell) for cell in cells)
    if single and not all(map(is_missing, cells)):
        raise UserError(
            f"{table.source}: the column {shown(name)} holds zeros and ones: whether a text has "
            "one of the labels",
            "put the names of all labels that a text has into one column: a list in JSON Lines, "
            f"or with {BETWEEN} between in CSV",
        )


def _listed(cell: Any) -> list[Any]:
    """Return the labels of a cell: a list, or one text with ``|`` between; empty: it has none."""
    several = as_list(cell)
    if several is not None:
        return several
    if is_missing(cell):
        return []
    if isinstance(cell, str):
        return [one for part in cell.split(BETWEEN) if (one := part.strip())]
    return [cell]
