"""What examples are for: all that measuring, training and loading must know of a task.

The meter needs nothing but margins, training nothing but losses. So no search, strategy or healing
asks which task it is. Classification is the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from headsweep.errors import UserError
from headsweep.texts.split import Split


class Task(Protocol):
    """A kind of model and data.

    ``answers`` are what a model says of examples, [example, ...] in float32; ``labels`` are
    [example], as a ``Split`` holds them.
    """

    name: ClassVar[str]

    def check(self, config: Any) -> None:
        """Raise UserError where a configuration is of a model for something else."""

    def load(self, name: str, **more: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Load a model, with transformers' report of what was missing, left over or misshapen."""

    def reload(self, folder: Path) -> PreTrainedModel:
        """Load a folder as any user would, plainly."""

    def rows(self, split: Split) -> list[list[str]]:
        """Return what the tokenizer is given: the texts, and the second texts of pairs."""

    def check_labels(self, split: Split, names: tuple[str, ...]) -> None:
        """Raise UserError where a row has a label that the model has not."""

    def place(self, ids: Tensor, last: int | None) -> Tensor | None:
        """Return which token each answer is read from, [batch], of ids [batch, token].

        ``last`` is None for a model that reads the first token, and for one that reads the last
        the number of padding. None is returned where an answer is read from several tokens.
        """

    def losses(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example, [example]."""

    def margins(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return how far each example is from being wrong, [example]: right when above zero."""


@dataclass(frozen=True)
class Classification:
    """One label a text."""

    name: ClassVar[str] = "classification"

    def check(self, config: Any) -> None:
        """Refuse models of several labels a text and of one output."""
        kind = getattr(config, "problem_type", None)
        if kind == "multi_label_classification":
            raise UserError(
                "this is a multi-label classifier", "only one label a text is supported"
            )
        if kind == "regression" or config.num_labels < 2:
            raise UserError(
                "this model has a regression head (one output)", "a classifier is needed"
            )

    def load(self, name: str, **more: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Load a sequence classifier from safetensors."""
        model, report = AutoModelForSequenceClassification.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **more
        )
        return model, report

    def reload(self, folder: Path) -> PreTrainedModel:
        """Load a sequence classifier plainly; never a pickle."""
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False
        )
        return model

    def rows(self, split: Split) -> list[list[str]]:
        """Return texts, and second texts where there are pairs."""
        return [list(split.texts)] + ([list(split.pairs)] if split.pairs else [])

    def check_labels(self, split: Split, names: tuple[str, ...]) -> None:
        """Refuse a number beyond the names."""
        highest = max(split.labels, default=0)
        if highest >= len(names) or min(split.labels, default=0) < 0:
            raise UserError(f"the data has a label {highest}, the model has {len(names)} labels")

    def place(self, ids: Tensor, last: int | None) -> Tensor | None:
        """Return the first token; or the last that is no padding, as transformers finds it."""
        if last is None:
            return torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        places = torch.arange(ids.shape[1], device=ids.device)
        found: Tensor = (places * (ids != last)).argmax(-1)
        return found

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
