"""What a suspect reads: how many tokens, from which table, and what pads a batch of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headsweep.errors import UserError
from headsweep.model.families import Adapter


@dataclass(frozen=True)
class Padding:
    """The token number that fills a batch, and whether it had to be chosen for the model.

    A classifier that reads the last token finds it by this number, so a text that ends in a
    chosen number would be read one token too early (``predict.encode`` refuses it).
    """

    number: int
    chosen: bool = False


def probe_inputs(model: PreTrainedModel, rows: int = 2, length: int = 12) -> dict[str, Tensor]:
    """Return a small fixed batch of token numbers, the same for every call."""
    vocabulary = vocabulary_size(model)
    length = min(length, positions_of(model) - 4)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (rows, max(length, 2)), generator=generator)
    special = {model.config.pad_token_id, 0}
    ids[torch.isin(ids, torch.tensor([s for s in special if s is not None]))] = 1
    if model.config.pad_token_id == 1:
        ids[ids == 1] = 2
    end = getattr(model.config, "eos_token_id", None)
    if isinstance(end, int) and end not in special and 0 <= end < vocabulary:
        ids[ids == end] = end - 1 if end - 1 not in special else end + 1
        ids[:, -1] = end  # as texts end: some classifiers read there
    ids = ids.to(model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def vocabulary_size(model: PreTrainedModel) -> int:
    """Return how many tokens the model has embeddings for."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:  # CANINE hashes characters
        table = None
    if not isinstance(table, nn.Embedding):
        raise UserError(
            f"{type(model).__name__} has no table of token embeddings",
            "only classifiers that read token numbers are supported",
        )
    return int(table.weight.shape[0])


def position_limit(model: PreTrainedModel, adapter: Adapter) -> int:
    """Return how many tokens the model can read."""
    limit = positions_of(model)
    return limit - _first_position(model) if adapter.offset_positions else limit


def positions_of(model: PreTrainedModel) -> int:
    """Return how many positions the configuration names; as good as no end where it names none.

    XLNet, which has no end of them, says -1; MPT has a name of its own for them.
    """
    names = ("max_position_embeddings", "max_seq_len")
    named = (int(getattr(model.config, name, 0) or 0) for name in names)
    return next((one for one in named if one > 0), 1 << 30)


def _first_position(model: PreTrainedModel) -> int:
    """Return the position of the first token, as the module that numbers positions has it.

    The configuration is no witness: MPNet's module has a number of its own.
    """
    for module in model.base_model.modules():
        offset = getattr(module, "padding_idx", None)
        if hasattr(module, "position_embeddings") and isinstance(offset, int):
            return offset + 1
    return max(int(model.config.pad_token_id or 0), 0) + 1


def padding_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, reads_last: bool
) -> tuple[Padding, tuple[str, ...]]:
    """Return what to pad with, and notes on what had to be set for it.

    What the model answers must be what it answers to one text at a time. A decoder finds its last
    token by the configuration's number, so that one is used. An encoder's padding is hidden
    from it, and its configuration is never changed: RoBERTa's positions count from that number.

    Raises:
        UserError: the tokenizer or the configuration names a number without an embedding.

    """
    theirs = tokenizer.pad_token_id
    own = model.config.get_text_config().pad_token_id
    own = None if own is None or own < 0 else int(own)  # early Llamas say -1 for none
    vocabulary = vocabulary_size(model)
    for number in (own, theirs):
        if number is not None and number >= vocabulary:
            raise UserError(
                f"the padding token has number {number}, the model has {vocabulary} embeddings",
                "call model.resize_token_embeddings(len(tokenizer)) and save the model again",
            )
    named = own if reads_last or theirs is None else theirs
    if named is not None:
        padding = Padding(named)
    else:
        padding = Padding(_spare_token(tokenizer, vocabulary), chosen=True)
    notes = _set_padding(model, tokenizer, padding, reads_last)
    if reads_last and tokenizer.pad_token_id not in (None, padding.number):
        notes.append(
            f"the tokenizer pads with {tokenizer.pad_token_id}, the configuration with "
            f"{padding.number}, which is used: in batches padded by the tokenizer this model reads "
            "the wrong token"
        )
    return padding, tuple(notes)


def _set_padding(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    padding: Padding,
    reads_last: bool,
) -> list[str]:
    """Set what is missing for batches to work, in place; return a note of each."""
    notes = []
    if tokenizer.pad_token_id is None or (padding.chosen and reads_last):
        token = tokenizer.convert_ids_to_tokens(padding.number)
        if token is None:
            notes.append(
                f"the tokenizer has no token of number {padding.number}, which the configuration "
                "pads with: it cannot pad batches itself"
            )
        elif tokenizer.pad_token != token:
            tokenizer.pad_token = token
            notes.append(f"padding token set to {token}")
    if reads_last and padding.chosen:
        model.config.get_text_config().pad_token_id = padding.number
        notes.append(f"config.pad_token_id set to {padding.number}")
    return notes


def _spare_token(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> int:
    """Return the number of a token that no text ends in, special tokens first."""
    last = tokenizer("a", verbose=False)["input_ids"][-1:]
    unknown = tokenizer.unk_token_id  # words that the tokenizer does not know end texts
    special = [number for number in tokenizer.all_special_ids if number != unknown]
    known = range(min(vocabulary, len(tokenizer)))
    for number in (tokenizer.pad_token_id, tokenizer.eos_token_id, *special, unknown, *known):
        if number is not None and number < vocabulary and number not in last:
            return int(number)
    raise UserError("the tokenizer has no token to pad with", "set tokenizer.pad_token")
