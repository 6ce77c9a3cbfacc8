"""What examples are for: all that measuring, training and loading must know of a task.

The meter needs nothing but margins, training nothing but losses. So no search, strategy or healing
asks which task it is. Classification is the first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from headsweep.errors import UserError, shown, shown_all
from headsweep.texts import reading
from headsweep.texts.reading import Columns, Table
from headsweep.texts.split import Labels, Split
from headsweep.texts.words import CLASSIFICATION as CLASSIFICATION_WORDS
from headsweep.texts.words import Words

if TYPE_CHECKING:  # it names the task that its examples are of
    from headsweep.texts.encoded import Batch


ONE_LABEL = "this is for models that give every text one label"


@dataclass(frozen=True)
class Tokens:
    """Examples as a tokenizer makes them.

    Attributes:
        ids: the token numbers of each.
        kinds: their types; empty where the tokenizer makes none.
        labels: what ``losses`` and ``margins`` are given.
        task: the task that these examples are of: it may hold what it knows of each.
        cut: how many were cut at the maximum length.

    """

    ids: tuple[tuple[int, ...], ...]
    kinds: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...]
    task: Task
    cut: int


class Task(Protocol):
    """A kind of model and data.

    ``answers`` are what a model says of examples, [example, ...] in float32; ``labels`` are
    [example], as ``encode`` makes them.
    """

    words: ClassVar[Words]  # what its figures are called
    heads: ClassVar[tuple[str, ...]]  # how the names of its architectures end
    head: ClassVar[str]  # what such a model has on top, in words
    does: ClassVar[str]  # what that was trained to do
    fix: ClassVar[str]  # what to do with a checkpoint of another task
    axes: ClassVar[int]  # of logits: 2, [text, class], or 3, [text, token, vocabulary]

    def takes(self, config: Any, architectures: Sequence[str]) -> bool:
        """Tell whether a model of this configuration and these architectures is for it."""

    def check(self, config: Any) -> None:
        """Raise UserError where a configuration is of a model for something else."""

    def one_label(self, what: str) -> None:
        """Raise UserError where an example has not one label, which something (``what``) needs."""

    def names(self, config: Any) -> Labels:
        """Return the names of a model's labels; none where it answers in tokens or numbers."""

    def load(self, name: str, **more: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Load a model, with transformers' report of what was missing, left over or misshapen."""

    def reload(self, folder: Path) -> PreTrainedModel:
        """Load a folder as any user would, plainly."""

    def pick(
        self, table: Table, columns: Columns, labels: Labels, tokenizer: PreTrainedTokenizerBase
    ) -> Split:
        """Pick the examples out of a table; raises UserError."""

    def check_labels(self, split: Split, names: tuple[str, ...]) -> None:
        """Raise UserError where a row has a label that the model has not."""

    def strata(self, split: Split) -> Sequence[int]:
        """Return a number for each row: rows of one number are spread evenly over the parts."""

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, limit: int) -> Tokens:
        """Tokenise examples, each to ``limit`` tokens at most; raises UserError."""

    def answers(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Return what a model answers to a batch, [batch, ...] in float32; it fills no cache."""

    def against(self, measure: Callable[[], Tensor]) -> Task:
        """Return it with what it compares answers to: those of the suspect, which are measured."""

    def said(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, ...]:
        """Return the answers to a batch, and what else ``beside`` looks at, each [batch, ...]."""

    def beside(
        self, said: Sequence[Tensor], labels: Tensor, names: Sequence[str]
    ) -> dict[str, float]:
        """Return what is told of examples beside the share of right ones: ``words.figures``.

        Args:
            said: what ``said`` returns of each, in the order of the split, on the CPU.
            labels: of each, [example].
            names: of the model's labels.

        """

    def blind(self, labels: Sequence[int], right: int, beside: Mapping[str, float]) -> str:
        """Return in words that a suspect is no better than a guess; empty: it is better.

        Args:
            labels: of all examples.
            right: how many are right.
            beside: what ``beside`` tells of them.

        """

    def noted(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Return what of logits a manifest notes, [example, ...], small; ids are [batch, token]."""

    def attends(self, batch: Batch, last: int | None) -> Tensor:
        """Return which token's row of attention is looked at, [batch]."""

    def place(self, ids: Tensor, last: int | None) -> Tensor | None:
        """Return which token each answer is read from, [batch], of ids [batch, token].

        ``last`` is None for a model that reads the first token, and for one that reads the last
        the number of padding. None is returned where an answer is read from several tokens.
        """

    def losses(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example, [example]."""

    def margins(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return how far each example is from being wrong, [example]: right when above zero."""


def loaded(auto: Any, name: str, **more: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load from safetensors by one of transformers' Auto classes, with its report."""
    model, report = auto.from_pretrained(
        name, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **more
    )
    return model, report


def reloaded(auto: Any, folder: Path) -> PreTrainedModel:
    """Load a folder plainly by one of transformers' Auto classes; never a pickle.

    Raises:
        UserError: tensors are missing, which transformers would draw at random.

    """
    model, report = loaded(auto, str(folder))
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{folder}: lacks tensors: {shown_all(missing)}", "get the folder again")
    return model


class WholeTexts:
    """What tasks share whose models read a text, or a pair, and give it one row of logits."""

    heads: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)
    axes: ClassVar[int] = 2

    def load(self, name: str, **more: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Load a sequence classifier from safetensors."""
        return loaded(AutoModelForSequenceClassification, name, **more)

    def reload(self, folder: Path) -> PreTrainedModel:
        """Load a sequence classifier plainly; never a pickle."""
        return reloaded(AutoModelForSequenceClassification, folder)

    def answers(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Return logits, [batch, class]."""
        found: Tensor = model(**batch.inputs, **taken(model, use_cache=False)).logits
        return found.float()

    def said(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, ...]:
        """Return the answers."""
        return (self.answers(model, batch),)

    def noted(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Return all of them."""
        del ids
        return logits

    def attends(self, batch: Batch, last: int | None) -> Tensor:
        """Return the token that the answer is read from; raises UserError."""
        place = self.place(batch.inputs["input_ids"], last)
        if place is None:
            raise UserError(
                "there is no one row of attention: an answer is read from several tokens"
            )
        return place

    def place(self, ids: Tensor, last: int | None) -> Tensor | None:
        """Return the first token; or the last that is no padding, as transformers finds it."""
        if last is None:
            return torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        places = torch.arange(ids.shape[1], device=ids.device)
        found: Tensor = (places * (ids != last)).argmax(-1)
        return found


@dataclass(frozen=True)
class Classification(WholeTexts):
    """One label a text."""

    words: ClassVar[Words] = CLASSIFICATION_WORDS
    head: ClassVar[str] = "classifier"
    does: ClassVar[str] = "classify texts"
    fix: ClassVar[str] = (
        "purify and attack take it with --start encoder, which puts a fresh classifier for your "
        "data on it"
    )

    def takes(self, config: Any, architectures: Sequence[str]) -> bool:
        """Take whatever no other task does, to say then what is wrong with it."""
        del config, architectures
        return True

    def check(self, config: Any) -> None:
        """Refuse models of several labels a text, of one output."""
        kind = getattr(config, "problem_type", None)
        if kind == "multi_label_classification":
            raise UserError("this is a multi-label classifier", ONE_LABEL)
        if kind == "regression" or config.num_labels < 2:
            raise UserError("this model has a regression head (one output)", ONE_LABEL)

    def one_label(self, what: str) -> None:
        """Every text has one."""

    def names(self, config: Any) -> Labels:
        """Return the labels of ``id2label``."""
        return Labels.of(config.id2label)

    def pick(
        self, table: Table, columns: Columns, labels: Labels, tokenizer: PreTrainedTokenizerBase
    ) -> Split:
        """Pick texts, pairs of texts, and labels."""
        del tokenizer
        return reading.pick(table, columns, labels)

    def check_labels(self, split: Split, names: tuple[str, ...]) -> None:
        """Refuse what is no class number, and a number beyond the names."""
        if not all(isinstance(label, int) for label in split.labels):
            raise UserError(
                "the data has labels that are no class numbers",
                "this model gives every text one label of its own",
            )
        wrong = [label for label in split.labels if not 0 <= label < len(names)]
        if wrong:
            raise UserError(f"the data has a label {wrong[0]}, the model has {len(names)} labels")

    def strata(self, split: Split) -> Sequence[int]:
        """Return the labels."""
        return split.labels

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, limit: int) -> Tokens:
        """Tokenise texts, and second texts where there are pairs, cut as the tokenizer cuts."""
        return tokenised(split, tokenizer, limit, split.labels, self)

    def against(self, measure: Callable[[], Tensor]) -> Classification:
        """Return it as it is: a label is right or wrong whatever the suspect said."""
        del measure
        return self

    def beside(
        self, said: Sequence[Tensor], labels: Tensor, names: Sequence[str]
    ) -> dict[str, float]:
        """Return nothing more."""
        del said, labels, names
        return {}

    def blind(self, labels: Sequence[int], right: int, beside: Mapping[str, float]) -> str:
        """Compare with always giving the most common label."""
        del beside
        most = max(labels.count(label) for label in set(labels))
        if right > most:
            return ""
        told = (
            f"accuracy before pruning is {right / len(labels):.3f}, no better than always giving "
            f"one answer ({most / len(labels):.3f})"
        )
        chance = (len(labels) - most) / len(labels)
        return told + " (are labels exchanged?)" * (2 * right < chance * len(labels))

    def losses(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of each example, [example], of logits [example, class]."""
        return nn.functional.cross_entropy(answers, labels, reduction="none")

    def margins(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return the label's logit minus the best other's, [example].

        A tie that the label wins, as the first of the best, counts as won by next to nothing.
        """
        own = answers.gather(1, labels[:, None])[:, 0]
        margins = own - answers.scatter(1, labels[:, None], -torch.inf).amax(-1)
        won = (margins == 0) & (answers.argmax(-1) == labels)
        return margins.masked_fill(won, torch.finfo(margins.dtype).tiny)


CLASSIFICATION = Classification()


def taken(model: PreTrainedModel, **wanted: Any) -> dict[str, Any]:
    """Return those of some arguments that a model takes."""
    known = inspect.signature(type(model).forward).parameters
    return {name: value for name, value in wanted.items() if name in known}


def no_token(count: int, first: str) -> UserError:
    """Return the error of texts that a tokenizer leaves nothing of."""
    told = "1 text becomes" if count == 1 else f"{count} texts become"
    return UserError(
        f"{told} no token, the first is {shown(first)}",
        "remove such rows: this tokenizer leaves their characters out",
    )


def tokenised(
    split: Split,
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    labels: tuple[int, ...],
    task: Task,
) -> Tokens:
    """Tokenise texts, and second texts where there are pairs, cut as the tokenizer cuts.

    Raises:
        UserError: a text becomes no token.

    """
    texts = [list(split.texts)] + ([list(split.pairs)] if split.pairs else [])
    made = tokenizer(*texts, truncation=True, max_length=limit, verbose=False)
    ids = tuple(map(tuple, made["input_ids"]))
    empty = [text for text, row in zip(split.texts, ids, strict=True) if not row]
    if empty:
        raise no_token(len(empty), empty[0])
    whole = tokenizer(*texts, truncation=False, verbose=False)["input_ids"]
    return Tokens(
        ids,
        tuple(map(tuple, made["token_type_ids"])) if "token_type_ids" in made else (),
        labels,
        task,
        sum(len(long) > len(cut) for long, cut in zip(whole, ids, strict=True)),
    )


def known(table: Tensor, labels: Tensor) -> Tensor:
    """Return what a task knows of examples, whose labels are their numbers in its table."""
    return table[labels.cpu()].to(labels.device)
