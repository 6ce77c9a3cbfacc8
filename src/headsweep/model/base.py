"""The public encoder that a suspect was fine-tuned from, where somebody knows it and trusts it.

Source: Zhang et al. 2022, *Fine-mixing: Mitigating Backdoors in Fine-tuned Language Models*.
Deviation: they draw which weights come from the base; here every tensor moves the same share of
the way towards it. Whoever has such a base knows more than the paper's defender does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import AutoModel

from headsweep.errors import UserError
from headsweep.model.anatomy import Anatomy
from headsweep.model.checkpoint import check_size, quiet, readable
from headsweep.model.loading import read_config
from headsweep.model.mask import HeadMask
from headsweep.model.removal import pieces
from headsweep.model.vetting import vetted

SAME = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")


def base_weights(anatomy: Anatomy, source: str) -> dict[str, Tensor]:
    """Return the base's weights by the names that they have in the suspect.

    The classifier is not among them, nor a pooler that the base lacks.

    Raises:
        UserError: it cannot be read, or is of another architecture, vocabulary or shape.

    """
    model = anatomy.model
    with vetted(source) as files:
        config = read_config(source, files)
        for name in SAME:
            own, other = getattr(model.config, name, None), getattr(config, name, None)
            if own != other:
                raise UserError(
                    f"{source} is not what this model was fine-tuned from: its {name} is {other}, "
                    f"the model's {own}",
                    "give the encoder that it was fine-tuned from, or leave base out",
                )
        check_size(source, config, files)
        with readable(source, "weights", files.folder), quiet():
            body, report = AutoModel.from_pretrained(
                str(files.folder),
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    missing = set(report["missing_keys"])
    theirs = {n: p.detach() for n, p in body.named_parameters() if n not in missing}
    prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
    found = {}
    for name, parameter in model.base_model.named_parameters():
        other = theirs.get(name)
        if other is None:
            continue
        if other.shape != parameter.shape:
            raise UserError(
                f"{source} is not what this model was fine-tuned from: {name} is "
                f"{tuple(other.shape)}, the model's {tuple(parameter.shape)}",
                "give the encoder that it was fine-tuned from, or leave base out",
            )
        found[prefix + name] = other.float().to(parameter.device)
    if 2 * len(found) < len(dict(model.base_model.named_parameters())):
        raise UserError(
            f"{source}: most of its weights have other names than the model's",
            "give the encoder that it was fine-tuned from, or leave base out",
        )
    return found


def mix_in(anatomy: Anatomy, mask: HeadMask, source: str, share: float) -> None:
    """Move the model's weights a share of the way to those of a base; what is pruned stays zero."""
    base = base_weights(anatomy, source)
    with torch.no_grad():
        for name, parameter in anatomy.model.named_parameters():
            if name in base:
                parameter.lerp_(base[name].to(parameter.dtype), share)
        for piece in pieces(anatomy, mask):
            piece.zero_()
