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

LISTS = ("up", "also", "stay", "counts", "biases")
FLAGS = ("interleaved", "offset_positions", "reads_last")


@dataclass(frozen=True)
class Adapter:
    """How to find the units of one architecture.

    Attributes:
        layers: path from the base model to its list of layers; ``*`` stands for every entry of
            a list of lists (ALBERT's groups of layers).
        query, key, value: paths of the projections inside a layer. The same path three times
            means one projection of all three: first all queries, then all keys, then all values.
        output: the attention output projection; its input begins with one slice a head.
        gate: a module at whose input the heads can be closed, where ``output`` is a bare parameter
            (XLNet's); else it is ``output``.
        up: the FFN projections whose outputs are the neurons, those of them that a model has. One
            with twice as many outputs holds the gate and the neurons, one after the other.
        down: the FFN projection whose inputs are the neurons; empty where they cannot be pruned
            (mixtures of experts).
        also: more projections, or parameters, with one block of rows a head, where a model has
            them.
        interleaved: True when one projection of all three goes group by group: the queries that
            share a key, their key, their value, then the next group (GPT-NeoX, Falcon).
        stay: which of ``query`` and ``key`` keep the rows of a head that goes, since what they
            give is mixed over all heads (OLMo2's norms).
        heads: path of the number of heads inside a layer, where the configuration does not say.
        groups: path of the number of key/value heads inside a layer, likewise.
        counts: paths of whole numbers inside a layer that its ``forward`` goes by and that are in
            proportion to its heads, those of them that it has (``attn.num_heads``): lower in a
            layer of which heads are cut out.
        biases: arguments of modules inside a layer that hold something for every head, along the
            second axis (``attention.attn.position_bias``): such a layer reads its own heads' only.
        offset_positions: True when the first ``pad_token_id + 1`` positions hold no text.
        reads_last: True when the classifier reads the last token, as decoders do; else the
            first.

    """

    layers: str
    query: str
    key: str
    value: str
    output: str
    up: tuple[str, ...] = ()
    down: str = ""
    also: tuple[str, ...] = ()
    interleaved: bool = False
    stay: tuple[str, ...] = ()
    heads: str = ""
    groups: str = ""
    counts: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    offset_positions: bool = False
    reads_last: bool = False
    gate: str = ""


def _apart(layers: str, roles: str, output: str, up: str, down: str, **more: Any) -> Adapter:
    """Return a row of a model with three projections, named one after the other in a line."""
    query, key, value = roles.split()
    return Adapter(layers, query, key, value, output, tuple(up.split()), down, **more)


def _fused(layers: str, role: str, output: str, up: str, down: str, **more: Any) -> Adapter:
    """Return a row of a model with one projection of queries, keys and values."""
    return Adapter(layers, role, role, role, output, tuple(up.split()), down, **more)


def _paths(module: str, names: str) -> tuple[str, ...]:
    """Return paths of what a module holds, named one after the other in a line."""
    return tuple(f"{module}.{name}" for name in names.split())


_BERT = _apart(
    "encoder.layer",
    "attention.self.query attention.self.key attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
    counts=_paths("attention.self", "num_attention_heads all_head_size"),
)
_ROBERTA = replace(_BERT, offset_positions=True)
_DEBERTA = replace(
    _BERT,
    query="attention.self.query_proj",
    key="attention.self.key_proj",
    value="attention.self.value_proj",
    also=_paths("attention.self", "pos_query_proj pos_key_proj"),
)
_IN = "attention.self.in_proj"
_DEBERTA_1 = replace(
    _BERT,
    query=_IN,
    key=_IN,
    value=_IN,
    interleaved=True,
    also=_paths("attention.self", "q_bias v_bias pos_proj pos_q_proj"),
)
_ALBERT = _apart(
    "encoder.albert_layer_groups.*.albert_layers",
    "attention.query attention.key attention.value",
    "attention.dense",
    "ffn",
    "ffn_output",
)
_CONVBERT = replace(_BERT, stay=("query",), heads="attention.self.num_attention_heads")
_LONGFORMER = replace(_BERT, also=_paths("attention.self", "query_global key_global value_global"))
_LUKE = replace(_ROBERTA, also=_paths("attention.self", "w2e_query e2w_query e2e_query"))
_DISTILBERT = _apart(
    "transformer.layer",
    "attention.q_lin attention.k_lin attention.v_lin",
    "attention.out_lin",
    "ffn.lin1",
    "ffn.lin2",
)
_MPNET = _apart(
    "encoder.layer",
    "attention.attn.q attention.attn.k attention.attn.v",
    "attention.attn.o",
    "intermediate.dense",
    "output.dense",
    counts=_paths("attention.attn", "num_attention_heads all_head_size"),
    biases=("attention.attn.position_bias",),
    offset_positions=True,
)
_MODERNBERT = _fused("layers", "attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo")
_LLAMA = _apart(
    "layers",
    "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj mlp.up_proj",
    "mlp.down_proj",
    counts=_paths("self_attn", "num_heads num_key_value_heads"),
    reads_last=True,
)
_EXPERTS = replace(_LLAMA, up=(), down="")
_NORMED = replace(_LLAMA, stay=("query", "key"))  # by one norm over the queries of all heads
_GLM = replace(_LLAMA, up=("mlp.gate_up_proj",))
_PHI = replace(_LLAMA, output="self_attn.dense", up=("mlp.fc1",), down="mlp.fc2")
_PHI3 = _fused(
    "layers",
    "self_attn.qkv_proj",
    "self_attn.o_proj",
    "mlp.gate_up_proj",
    "mlp.down_proj",
    reads_last=True,
)
_OPT = replace(
    _LLAMA, layers="decoder.layers", output="self_attn.out_proj", up=("fc1",), down="fc2"
)
_BIOGPT = replace(_OPT, layers="layers")
_GPT2 = _fused(
    "h",
    "attn.c_attn",
    "attn.c_proj",
    "mlp.c_fc",
    "mlp.c_proj",
    counts=_paths("attn", "num_heads split_size"),
    reads_last=True,
)
_GPTJ = _apart(
    "h",
    "attn.q_proj attn.k_proj attn.v_proj",
    "attn.out_proj",
    "mlp.fc_in",
    "mlp.fc_out",
    counts=_paths("attn", "num_attention_heads"),
    reads_last=True,
)
_GPT_NEO = _apart(
    "h",
    "attn.attention.q_proj attn.attention.k_proj attn.attention.v_proj",
    "attn.attention.out_proj",
    "mlp.c_fc",
    "mlp.c_proj",
    counts=_paths("attn.attention", "num_heads"),
    reads_last=True,
)
_GPT_NEOX = _fused(
    "layers",
    "attention.query_key_value",
    "attention.dense",
    "mlp.dense_h_to_4h",
    "mlp.dense_4h_to_h",
    interleaved=True,
    reads_last=True,
)
_BLOOM = _fused(
    "h",
    "self_attention.query_key_value",
    "self_attention.dense",
    "mlp.dense_h_to_4h",
    "mlp.dense_4h_to_h",
    interleaved=True,
    reads_last=True,
)
_FALCON = replace(
    _BLOOM,
    groups="self_attention.num_kv_heads",
    counts=_paths("self_attention", "num_heads num_kv_heads"),
)
_MPT = _fused(
    "blocks", "attn.Wqkv", "attn.out_proj", "ffn.up_proj", "ffn.down_proj", reads_last=True
)
_CTRL = _apart(
    "h",
    "multi_head_attention.Wq multi_head_attention.Wk multi_head_attention.Wv",
    "multi_head_attention.dense",
    "ffn.0",
    "ffn.2",
    reads_last=True,
)
_XLM = _apart(  # FFNs are in another list
    "attentions", "q_lin k_lin v_lin", "out_lin", "", "", counts=("n_heads",)
)
_XLNET = _apart(  # from bare parameters, [input, head, width]
    "layer",
    "rel_attn.q rel_attn.k rel_attn.v",
    "rel_attn.o",
    "ff.layer_1",
    "ff.layer_2",
    also=_paths("rel_attn", "r r_r_bias r_s_bias r_w_bias seg_embed"),
    gate="rel_attn.gate",  # which ``xlnet.fit`` puts there
    reads_last=True,
)
_FUNNEL = _apart(
    "encoder.blocks.*",
    "attention.q_head attention.k_head attention.v_head",
    "attention.post_proj",
    "ffn.linear_1",
    "ffn.linear_2",
)
_T5 = _apart(  # the encoder's heads
    "encoder.block",
    "layer.0.SelfAttention.q layer.0.SelfAttention.k layer.0.SelfAttention.v",
    "layer.0.SelfAttention.o",
    "layer.1.DenseReluDense.wi layer.1.DenseReluDense.wi_0 layer.1.DenseReluDense.wi_1",
    "layer.1.DenseReluDense.wo",
)
_BART = replace(_BIOGPT, layers="encoder.layers", reads_last=False)  # likewise

FAMILIES: dict[str, Adapter] = {
    "albert": _ALBERT,
    "arcee": replace(_LLAMA, up=("mlp.up_proj",)),
    "bart": _BART,
    "bert": _BERT,
    "big_bird": replace(_BERT, counts=()),  # its layers are made for sparse attention
    "biogpt": _BIOGPT,
    "bloom": _BLOOM,
    "camembert": _ROBERTA,
    "convbert": _CONVBERT,
    "ctrl": _CTRL,
    "data2vec-text": _ROBERTA,
    "deberta": _DEBERTA_1,
    "deberta-v2": _DEBERTA,
    "distilbert": _DISTILBERT,
    "electra": _BERT,
    "ernie": _BERT,
    "esm": _ROBERTA,
    "eurobert": replace(_LLAMA, reads_last=False),
    "exaone4": _LLAMA,
    "falcon": _FALCON,
    "flaubert": _XLM,
    "funnel": _FUNNEL,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "glm": _GLM,
    "glm4": _GLM,
    "gpt2": _GPT2,
    "gpt_bigcode": replace(_GPT2, interleaved=True),
    "gpt_neo": _GPT_NEO,
    "gpt_neox": _GPT_NEOX,
    "gpt_oss": _EXPERTS,
    "gptj": _GPTJ,
    "gte": replace(_LLAMA, reads_last=False),
    "helium": _LLAMA,
    "jina_embeddings_v3": replace(_PHI, output="self_attn.o_proj", reads_last=False),
    "llama": _LLAMA,
    "longformer": replace(_LONGFORMER, offset_positions=True),
    "luke": _LUKE,
    "mbart": _BART,
    "megatron-bert": _BERT,
    "ministral": _LLAMA,
    "ministral3": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _EXPERTS,
    "mobilebert": _BERT,
    "modernbert": _MODERNBERT,
    "modernbert-decoder": _apart(
        "layers",
        "attn.q_proj attn.k_proj attn.v_proj",
        "attn.Wo",
        "mlp.Wi",
        "mlp.Wo",
        reads_last=True,
    ),
    "mpnet": _MPNET,
    "mpt": _MPT,
    "mt5": _T5,
    "nemotron": replace(_LLAMA, up=("mlp.up_proj",)),
    "nomic_bert": replace(_LLAMA, reads_last=False),
    "nystromformer": _BERT,
    "olmo": _LLAMA,
    "olmo2": _NORMED,
    "olmo3": _NORMED,
    "openai-gpt": replace(_GPT2, counts=_paths("attn", "n_head split_size")),
    "opt": _OPT,
    "persimmon": replace(
        _GPT_NEOX,
        query="self_attn.query_key_value",
        key="self_attn.query_key_value",
        value="self_attn.query_key_value",
        output="self_attn.dense",
        counts=_LLAMA.counts,
    ),
    "phi": _PHI,
    "phi3": _PHI3,
    "phimoe": _EXPERTS,
    "plbart": _BART,
    "qwen2": _LLAMA,
    "qwen2_moe": _EXPERTS,
    "qwen3": _LLAMA,
    "qwen3_moe": _EXPERTS,
    "rembert": _BERT,
    "roberta": _ROBERTA,
    "roberta-prelayernorm": _ROBERTA,
    "roc_bert": _BERT,
    "roformer": _BERT,
    "seed_oss": _LLAMA,
    "smollm3": _LLAMA,
    "stablelm": _LLAMA,
    "starcoder2": replace(_LLAMA, up=("mlp.c_fc",), down="mlp.c_proj"),
    "t5": _T5,
    "umt5": _T5,
    "xlm": _XLM,
    "xlm-roberta": _ROBERTA,
    "xlm-roberta-xl": _ROBERTA,
    "xlnet": _XLNET,
    "xmod": _ROBERTA,
}
"""Adapter by ``config.model_type``."""

_NO_HEADS = "it has no attention heads"
UNFIT: dict[str, str] = {
    "falcon_mamba": _NO_HEADS,
    "fnet": _NO_HEADS,
    "mamba": _NO_HEADS,
    "mamba2": _NO_HEADS,
    "rwkv": _NO_HEADS,
}
"""Why no adapter can be written, by ``config.model_type``."""


def adapter_for(model_type: str) -> Adapter:
    """Return the row of a family; raise UserError saying how to describe an unknown one."""
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    if model_type in UNFIT:
        raise UserError(
            f"'{model_type}' cannot be purified: {UNFIT[model_type]}",
            "only models whose attention heads can be closed one by one are supported",
        )
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
        wanted = list if name in LISTS else bool if name in FLAGS else str
        if not isinstance(value, wanted):
            raise UserError(f"{path}: {name} must be a {wanted.__name__}, not {shown(value)}")
    listed = (one for name in LISTS for one in entries.get(name, ()))
    if not all(isinstance(one, str) for one in listed):
        raise UserError(f"{path}: {', '.join(LISTS)} are lists of text")
    if not set(entries.get("stay", ())) <= {"query", "key"}:
        raise UserError(f"{path}: only query and key can stay, not {shown(entries['stay'])}")
    values: dict[str, Any] = dict(entries) | {
        name: tuple(entries[name]) for name in LISTS if name in entries
    }
    try:
        return Adapter(**values)
    except TypeError as error:
        raise UserError(f"{path}: {error}", f"the keys are {', '.join(sorted(known))}") from error
