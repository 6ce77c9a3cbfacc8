"""How texts become tokens, and what a model answers to them, as their task says."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from headsweep.errors import UserError
from headsweep.model.loading import Suspect
from headsweep.model.padding import position_limit, vocabulary_size
from headsweep.texts.encoded import Batch, Encoded
from headsweep.texts.reading import Columns, Source, read
from headsweep.texts.split import Split


def encode(split: Split, suspect: Suspect, max_length: int) -> Encoded:
    """Tokenise a split for a model, cutting examples at the lower of the two limits.

    Raises:
        UserError: a text becomes no token, or one that the model has no embedding for.

    """
    tokenizer, model = suspect.tokenizer, suspect.model
    limit = min(max_length, position_limit(model, suspect.anatomy.adapter))
    if not len(split):
        return Encoded((), (), (), suspect.padding.number, suspect.task)
    made = suspect.task.encode(split, tokenizer, limit)
    check_known(made.ids, model)
    _check_ends(made.ids, suspect)
    kinds = made.kinds if _has_kinds(model) else ()
    return Encoded(made.ids, kinds, made.labels, suspect.padding.number, made.task, made.cut)


def check_known(ids: Sequence[Sequence[int]], model: PreTrainedModel) -> None:
    """Refuse tokens that a model has no embedding for; raises UserError."""
    vocabulary = vocabulary_size(model)
    if max((max(row, default=0) for row in ids), default=0) >= vocabulary:
        raise UserError(
            f"the tokenizer makes token numbers beyond the model's {vocabulary} embeddings",
            "the tokenizer in the folder is another model's, or tokens were added to it: then call "
            "model.resize_token_embeddings(len(tokenizer)) and save the model again",
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
    if not (padding.chosen and suspect.reads_last):
        return
    ends = sum(row[-1] == padding.number for row in ids)
    if ends:
        raise UserError(
            f"{ends} texts end in the token that batches are padded with "
            f"({suspect.tokenizer.pad_token}), since the model names no padding token",
            "set pad_token in the tokenizer and pad_token_id in config.json to a token that no "
            "text holds",
        )


def _has_kinds(model: PreTrainedModel) -> bool:
    """Tell whether to pass token types: a tokenizer may make them for a model that has none."""
    named = int(getattr(model.config, "type_vocab_size", 0) or 0)
    return named > 1 or model.config.model_type == "xlnet"  # which compares them, and has no table


def forward(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return what a model answers to a batch, [batch, ...] in float32."""
    return batch.task.answers(model, batch)


def check_alike(clean: Split, other: Split | None, option: str = "--triggered") -> None:
    """Check that clean and other rows are pairs of texts, or that none is; raises UserError.

    ``other``: None: there are none.
    """
    if other is not None and bool(other.pairs) != bool(clean.pairs):
        more = " and --triggered-column" if option == "--triggered" else ""
        raise UserError(
            f"one of --data and {option} has pairs of texts and the other has not",
            f"name text and pair of both, with --column{more}",
        )


def rows_of(
    source: Source, suspect: Suspect, columns: Columns = Columns(), names: Columns | None = None
) -> Split:
    """Read the examples of a source, as a suspect's task has them.

    Args:
        source: as for ``texts.reading.load``.
        suspect: whose examples they are.
        columns: the columns; those left None are guessed.
        names: the columns of this file, where ``columns`` are another's.

    Raises:
        UserError: anything that makes the data unusable, with the row where there is one.

    """
    if isinstance(source, Split):
        return source
    table = read(source)
    own = columns if names is None else columns.own(names, table)
    return suspect.task.pick(table, own, suspect.labels, suspect.tokenizer)
