"""Logits and accuracy of a model on clean examples, fast and exact.

Texts are tokenised once; batches hold texts of similar length, each padded to its own longest
(the same batch padded to 128 tokens costs several times as much). What a search measures is in
``sweep``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headsweep.errors import UserError
from headsweep.model.anatomy import Anatomy
from headsweep.model.gates import masked
from headsweep.model.loading import Suspect, position_limit, vocabulary_size
from headsweep.model.mask import HeadMask
from headsweep.model.runtime import Runtime
from headsweep.texts.encoded import Batch, Encoded
from headsweep.texts.split import Split


def encode(split: Split, suspect: Suspect, max_length: int) -> Encoded:
    """Tokenise a split for a model, cutting texts at the lower of the two limits.

    Raises:
        UserError: the tokenizer makes numbers that the model has no embedding for.

    """
    tokenizer, model = suspect.tokenizer, suspect.model
    limit = min(max_length, position_limit(model, suspect.anatomy.adapter))
    if not len(split):
        return Encoded((), (), (), suspect.padding.number)
    texts = [list(split.texts)] + ([list(split.pairs)] if split.pairs else [])
    made = tokenizer(*texts, truncation=True, max_length=limit, verbose=False)
    ids = tuple(map(tuple, made["input_ids"]))
    vocabulary = vocabulary_size(model)
    if max(map(max, ids)) >= vocabulary:
        raise UserError(
            f"the tokenizer makes token numbers beyond the model's {vocabulary} embeddings",
            "the tokenizer in the folder is another model's, or tokens were added to it: then call "
            "model.resize_token_embeddings(len(tokenizer)) and save the model again",
        )
    _check_ends(ids, suspect)
    whole = tokenizer(*texts, truncation=False, verbose=False)["input_ids"]
    return Encoded(
        ids,
        tuple(map(tuple, made["token_type_ids"])) if _takes_kinds(made, model) else (),
        split.labels,
        suspect.padding.number,
        sum(len(long) > len(cut) for long, cut in zip(whole, ids, strict=True)),
    )


def _check_ends(ids: Sequence[Sequence[int]], suspect: Suspect) -> None:
    """Refuse texts that would be read at the wrong token; raises UserError."""
    padding = suspect.padding
    if not (padding.chosen and suspect.anatomy.adapter.reads_last):
        return
    ends = sum(row[-1] == padding.number for row in ids)
    if ends:
        raise UserError(
            f"{ends} texts end in the token that batches are padded with "
            f"({suspect.tokenizer.pad_token}), since the model names no padding token",
            "set pad_token in the tokenizer and pad_token_id in config.json to a token that no "
            "text holds",
        )


def _takes_kinds(made: Mapping[str, Any], model: PreTrainedModel) -> bool:
    """Tell whether to pass token types: a tokenizer may make them for a model that has none."""
    return "token_type_ids" in made and int(getattr(model.config, "type_vocab_size", 0) or 0) > 1


@dataclass(frozen=True)
class Measured:
    """What is known of a mask's accuracy: exact when ``right + wrong == total``."""

    right: int
    wrong: int
    total: int

    @property
    def exact(self) -> bool:
        """True when every example was measured."""
        return self.right + self.wrong == self.total

    @property
    def low(self) -> float:
        """The lowest accuracy possible."""
        return self.right / self.total

    @property
    def high(self) -> float:
        """The highest accuracy possible."""
        return 1 - self.wrong / self.total

    def holds(self, need: int) -> bool | None:
        """Tell whether at least ``need`` are right; None while that is open."""
        if self.right >= need:
            return True
        return False if self.total - self.wrong < need else None


def needed(accuracy: float, total: int) -> int:
    """Return how many of ``total`` must be right for at least this accuracy."""
    return max(0, math.ceil(accuracy * total - 1e-9))


def forward(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return the logits of a batch, [batch, class], in float32; a decoder fills no cache."""
    caches = "use_cache" in inspect.signature(type(model).forward).parameters
    extra = {"use_cache": False} if caches else {}
    found: Tensor = model(**batch.inputs, **extra).logits
    return found.float()


@torch.inference_mode()
def _forward(anatomy: Anatomy, batches: Sequence[Batch]) -> Iterator[tuple[int, Tensor]]:
    model = anatomy.model
    training = model.training
    model.eval()
    try:
        for index, batch in enumerate(batches):
            yield index, forward(model, batch)
    finally:
        model.train(training)


def logits(
    anatomy: Anatomy, encoded: Encoded, runtime: Runtime, mask: HeadMask | None = None
) -> Tensor:
    """Return the logits [example, class] in the order of the examples, float32 on the CPU."""
    batches = [b.to(anatomy.model.device) for b in encoded.batches(runtime.batch_size)]
    out = torch.zeros(len(encoded), int(anatomy.model.config.num_labels or 0))
    with masked(anatomy, mask or anatomy.layout.everything()):
        for index, found in _forward(anatomy, batches):
            out[batches[index].index] = found.cpu()
    return out
