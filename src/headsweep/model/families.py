"""Where each family of models keeps its heads and its FFN neurons: one row a family.

A path is relative to one layer of the base model. What the paths lead to is checked when a
model is located (``heads.locate``), so a wrong row cannot gate the wrong thing unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from headsweep.document import read_document
from headsweep.errors import UserError, shown


@dataclass(frozen=True)
class Adapter:
    """How to find the units of one architecture.

    Attributes:
        layers: path from the base model to its list of layers.
        query, key, value: paths of the projections inside a layer. The same path three times
            means one projection whose thirds are query, key and value, in this order.
        output: the attention output projection; its input is cut into one slice a head.
        up: the FFN projections whose outputs are the neurons.
        down: the FFN projection whose inputs are the neurons.
        also: more projections with one block of rows a head, where a model has them.
        offset_positions: True when the first ``pad_token_id + 1`` positions hold no text.
        reads_last: True when the classifier reads the last token, as decoders do; else the
            first.

    """

    layers: str
    query: str
    key: str
    value: str
    output: str
    up: tuple[str, ...]
    down: str
    also: tuple[str, ...] = ()
    offset_positions: bool = False
    reads_last: bool = False


_BERT = Adapter(
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    up=("intermediate.dense",),
    down="output.dense",
)
_ROBERTA = replace(_BERT, offset_positions=True)
_DEBERTA = Adapter(
    layers="encoder.layer",
    query="attention.self.query_proj",
    key="attention.self.key_proj",
    value="attention.self.value_proj",
    output="attention.output.dense",
    up=("intermediate.dense",),
    down="output.dense",
    also=("attention.self.pos_query_proj", "attention.self.pos_key_proj"),
)
_DISTILBERT = Adapter(
    layers="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    up=("ffn.lin1",),
    down="ffn.lin2",
)
_MPNET = Adapter(
    layers="encoder.layer",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    output="attention.attn.o",
    up=("intermediate.dense",),
    down="output.dense",
    offset_positions=True,
)
_GPT2 = Adapter(
    layers="h",
    query="attn.c_attn",
    key="attn.c_attn",
    value="attn.c_attn",
    output="attn.c_proj",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
    reads_last=True,
)
_LLAMA = Adapter(
    layers="layers",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    output="self_attn.o_proj",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    reads_last=True,
)

FAMILIES: dict[str, Adapter] = {
    "bert": _BERT,
    "camembert": _ROBERTA,
    "deberta-v2": _DEBERTA,
    "distilbert": _DISTILBERT,
    "electra": _BERT,
    "gemma2": _LLAMA,
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mpnet": _MPNET,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}
"""Adapter by ``config.model_type``."""


def check_one_stack(config: Any) -> None:
    """Check that a model is one stack of layers; raise UserError for an encoder-decoder."""
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"'{config.model_type}' is an encoder-decoder: its classifier reads the decoder, and "
            "an adapter describes one stack of layers",
            "only encoders (as BERT) and decoders (as Llama) can be purified",
        )


def adapter_for(model_type: str) -> Adapter:
    """Return the row of a family; raise UserError saying how to describe an unknown one."""
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    raise UserError(
        f"unsupported architecture '{model_type}': no row says where its layers, query, key, "
        "value and output projections are",
        "describe it: Python adapter=headsweep.Adapter(...), command line --adapter FILE.toml "
        f"(docs/guide.md); known: {', '.join(sorted(FAMILIES))}",
    )


def read_adapter(path: Path) -> Adapter:
    """Read an Adapter from a TOML file with one key a field.

    Raises:
        UserError: the file cannot be read, or a key is missing or unknown.

    """
    return adapter_from(read_document(path).values, str(path))


def adapter_from(entries: Mapping[str, Any], path: str) -> Adapter:
    """Return the adapter that a table describes, checked key by key; raises UserError."""
    if not isinstance(entries, Mapping):
        raise UserError(f"{path}: not a table of keys", "see docs/guide.md, adapters")
    known = {field.name for field in fields(Adapter)}
    unknown, missing = set(entries) - known, {"layers", "output"} - set(entries)
    if unknown or missing:
        named = ", ".join(sorted(unknown or missing))
        raise UserError(
            f"{path}: {'unknown' if unknown else 'missing'} adapter key: {named}",
            f"the keys are {', '.join(sorted(known))}",
        )
    for name, value in entries.items():
        wanted: type = {"up": list, "also": list}.get(name, str)
        if name in ("offset_positions", "reads_last"):
            wanted = bool
        if not isinstance(value, wanted):
            raise UserError(f"{path}: {name} must be a {wanted.__name__}, not {shown(value)}")
    listed = (one for name in ("up", "also") for one in entries.get(name, ()))
    if not all(isinstance(one, str) for one in listed):
        raise UserError(f"{path}: up and also are lists of paths")
    values: dict[str, Any] = dict(entries) | {
        name: tuple(entries[name]) for name in ("up", "also") if name in entries
    }
    try:
        return Adapter(**values)
    except TypeError as error:
        raise UserError(f"{path}: {error}", f"the keys are {', '.join(sorted(known))}") from error
