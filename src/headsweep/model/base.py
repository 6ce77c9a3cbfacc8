"""The public encoder that a suspect was fine-tuned from, where somebody knows it and trusts it.

Source: Zhang et al. 2022, *Fine-mixing: Mitigating Backdoors in Fine-tuned Language Models*.
Deviation: they draw which weights come from the base; here every tensor moves the same share of
the way towards it. Whoever has such a base knows more than the paper's defender does.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from headsweep.errors import UserError
from headsweep.model.anatomy import Anatomy
from headsweep.model.checkpoint import check_shapes, check_size, quiet, readable
from headsweep.model.joined import MERGE, hashed, is_adapter
from headsweep.model.loading import read_config
from headsweep.model.mask import HeadMask
from headsweep.model.removal import pieces
from headsweep.model.vetting import vetted

SAME = (
    "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "hidden_act", "hidden_activation", "activation_function", "activation", "ff_activation",
    "dense_act_fn", "gelu_activation",
)  # fmt: skip
"""What a base's configuration says as the model's does: sizes, and what activates its neurons."""
LACKED = re.compile(r"(?:^|[._])pool|^lm_head\.|^embed_out\.|^output_projection\.")
"""What published bases often lack: poolers, and what writes tokens."""


def base_weights(anatomy: Anatomy, source: str) -> dict[str, Tensor]:
    """Return the base's weights by the names that they have in the suspect.

    A classifier is not among them, nor a pooler, or what writes tokens, that the base lacks.

    Raises:
        UserError: it cannot be read, is not whole, or is of another architecture, vocabulary or
            shape.

    """
    model = anatomy.model
    _refuse_adapters(source)
    with vetted(source) as files:
        config = read_config(source, files)
        for name in SAME:
            own, other = getattr(model.config, name, None), getattr(config, name, None)
            if own != other:
                raise _another(source, f"its {name} is {other}, the model's {own}")
        check_size(source, config, files)
        with readable(source, "weights", files.folder), quiet():
            loaded, report = _kind(model).from_pretrained(
                str(files.folder),
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # refused below, by name and shape
                output_loading_info=True,
            )
    check_shapes(source, loaded, report["mismatched_keys"], False)
    missing = set(report["missing_keys"])
    theirs = {n: p.detach() for n, p in loaded.named_parameters() if n not in missing}
    lead = _lead(model) if loaded.base_model is loaded else ""
    found, wanted = {}, to_mix(model)
    for name, parameter in wanted.items():
        other = theirs.get(name.removeprefix(lead))
        if other is None:
            continue
        if other.shape != parameter.shape:
            shapes = f"{tuple(other.shape)}, the model's {tuple(parameter.shape)}"
            raise _another(source, f"{name.removeprefix(lead)} is {shapes}")
        if not bool(other.isfinite().all()):
            raise UserError(
                f"{source}: the weights hold NaN or infinity, first in {name}", "get it again"
            )
        found[name] = other.float().to(parameter.device)
    if 2 * len(found) < len(wanted):
        raise UserError(
            f"{source}: most of its weights have other names than the model's",
            "give the encoder that it was fine-tuned from, or leave base out",
        )
    lacking = [name for name in wanted if name not in found and not LACKED.search(name)]
    if lacking:
        raise UserError(
            f"{source}: lacks {len(lacking)} weights of the model, first {lacking[0]}",
            "it is not complete: get it again, or leave base out",
        )
    return found


def weights_of(source: str) -> dict[str, str]:
    """Return the SHA-256 of a base's files of weights, by name; raises UserError."""
    _refuse_adapters(source)
    with vetted(source) as files:
        return dict(hashed(shard.path) for shard in files.shards)


def _refuse_adapters(source: str) -> None:
    if is_adapter(source):
        raise UserError(f"{source}: holds only an adapter, not a base to mix in", MERGE)


def to_mix(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return what a base may have of a model: the body, and what writes tokens; no classifier."""
    writes = model.get_output_embeddings()
    tokens = {id(one) for one in writes.parameters()} if writes is not None else set()
    lead = _lead(model)
    return {
        name: one
        for name, one in model.named_parameters()
        if name.startswith(lead) or id(one) in tokens
    }


def unmixed(model: PreTrainedModel, found: Collection[str]) -> list[str]:
    """Return the names of those that a base lacks."""
    return [name for name in to_mix(model) if name not in found]


def _kind(model: PreTrainedModel) -> Any:
    """Return what loads a base: for a model that writes tokens whole, else without its head."""
    return AutoModel if model.get_output_embeddings() is None else AutoModelForCausalLM


def _lead(model: PreTrainedModel) -> str:
    return f"{model.base_model_prefix}." if model.base_model is not model else ""


def _another(source: str, why: str) -> UserError:
    return UserError(
        f"{source} is not what this model was fine-tuned from: {why}",
        "give the encoder that it was fine-tuned from, or leave base out",
    )


def mix_in(anatomy: Anatomy, mask: HeadMask, source: str, share: float) -> dict[str, str]:
    """Move the model's weights a share of the way to those of a base; what is pruned stays zero.

    Returns:
        The SHA-256 of the base's files, by name.

    """
    base = base_weights(anatomy, source)
    with torch.no_grad():
        for name, parameter in anatomy.model.named_parameters():
            if name in base:
                parameter.lerp_(base[name].to(parameter.dtype), share)
        for piece in pieces(anatomy, mask):
            piece.zero_()
    return weights_of(source)
