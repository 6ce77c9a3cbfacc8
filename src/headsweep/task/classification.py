"""Classification: how texts become tokens, and what a model answers to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from headsweep.errors import UserError, shown
from headsweep.model.borrowing import uncached
from headsweep.model.loading import Suspect, position_limit, vocabulary_size
from headsweep.texts.encoded import Batch, Encoded
from headsweep.texts.split import Split


def encode(split: Split, suspect: Suspect, max_length: int) -> Encoded:
    """Tokenise a split for a model, cutting texts at the lower of the two limits.

    Raises:
        UserError: a text becomes no token, or one that the model has no embedding for.

    """
    tokenizer, model = suspect.tokenizer, suspect.model
    limit = min(max_length, position_limit(model, suspect.anatomy.adapter))
    if not len(split):
        return Encoded((), (), (), suspect.padding.number, suspect.task)
    texts = suspect.task.rows(split)
    made = tokenizer(*texts, truncation=True, max_length=limit, verbose=False)
    ids = tuple(map(tuple, made["input_ids"]))
    _check_tokens(split, ids)
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
        suspect.task,
        sum(len(long) > len(cut) for long, cut in zip(whole, ids, strict=True)),
    )


def _check_tokens(split: Split, ids: Sequence[Sequence[int]]) -> None:
    """Refuse texts that a tokenizer leaves nothing of; raises UserError."""
    empty = [text for text, row in zip(split.texts, ids, strict=True) if not row]
    if empty:
        count = "1 text becomes" if len(empty) == 1 else f"{len(empty)} texts become"
        raise UserError(
            f"{count} no token, the first is {shown(empty[0])}",
            "remove such rows: this tokenizer leaves their characters out",
        )


def _check_ends(ids: Sequence[Sequence[int]], suspect: Suspect) -> None:
    """Refuse texts that would be read at the wrong token; raises UserError."""
    padding, config = suspect.padding, suspect.model.config
    if getattr(config, "is_encoder_decoder", False):
        counts = [row.count(config.eos_token_id) for row in ids]
        other = sum(count != max(counts[0], 1) for count in counts)
        if other:
            raise UserError(
                f"{other} texts do not hold the token that ends a text ({config.eos_token_id}) as "
                "often as the others: this architecture's classifier reads it",
                "remove that token from the texts, and let the tokenizer add it to each",
            )
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


def forward(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return the logits of a batch, [batch, class], in float32; a decoder fills no cache."""
    found: Tensor = model(**batch.inputs, **uncached(model)).logits
    return found.float()
