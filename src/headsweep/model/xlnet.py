"""What makes XLNet like the others: a gate that hooks can reach, and padding on either side.

transformers computes XLNet's attention from bare parameters, without modules. So there is none
before which a gate could be put, and an empty one is put in. It has no weights: what is saved is
as it was. What enters it, and the FFN's projections, is [text, token, ...], as everywhere, though
XLNet's own numbers lie token first.

Its classifier reads the last place of a batch, where the last token is only if padding lies on the
left. It is handed the last token that is no padding instead, which is the same one there. And its
mask is handed over in floating point, as torch's exporter to ONNX needs it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.xlnet.modeling_xlnet import XLNetFeedForward, XLNetRelativeAttention

GATE = "gate"  # of an attention module: the module that is put in
LAST = ("last", "cls_index")  # what reads the last place; no index of one is ever given


class GatedAttention(XLNetRelativeAttention):
    """XLNet's attention, with what its heads give led through a module."""

    gate: nn.Module

    def post_attention(self, h: Tensor, attn_vec: Tensor, residual: bool = True) -> Tensor:
        """Project what the heads give, [token, text, head, width], back to the model's width."""
        heads = self.gate(attn_vec.flatten(2).transpose(0, 1)).transpose(0, 1)
        found: Tensor = super().post_attention(  # type: ignore[no-untyped-call]
            h, heads.view_as(attn_vec), residual
        )
        return found


class TextFirstFeedForward(XLNetFeedForward):
    """XLNet's FFN, whose projections see [text, token, width]."""

    def forward(self, inp: Tensor) -> Tensor:
        """Compute it of [token, text, width]."""
        found: Tensor = super().forward(inp.transpose(0, 1))  # type: ignore[no-untyped-call]
        return found.transpose(0, 1)


def fit(model: PreTrainedModel) -> None:
    """Put the gates into an XLNet, in place, and let its classifier find the last token."""
    for module in model.modules():
        if type(module) is XLNetRelativeAttention:
            module.__class__ = GatedAttention
            module.add_module(GATE, nn.Identity())
        elif type(module) is XLNetFeedForward:
            module.__class__ = TextFirstFeedForward
    base = model.base_model
    summary = getattr(model, "sequence_summary", None)
    reads_last = getattr(summary, "summary_type", None) in LAST
    if _mask_in_float not in base._forward_pre_hooks.values():
        base.register_forward_pre_hook(_mask_in_float, with_kwargs=True)
        if reads_last:
            base.register_forward_hook(_last_only, with_kwargs=True)


def _mask_in_float(
    _: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    mask = named.get("attention_mask")
    return args, named if mask is None else named | {"attention_mask": mask.float()}


def _last_only(_: nn.Module, __: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
    """Leave the last real token of each text, [text, 1, width]; a hook that pickles."""
    mask = named.get("attention_mask")
    if mask is None:
        return output
    hidden = output[0]
    last = (torch.arange(mask.shape[1], device=mask.device) * mask).argmax(-1)
    index = last.to(hidden.device)[:, None, None].expand(-1, 1, hidden.shape[-1])
    if isinstance(output, tuple):
        return (hidden.gather(1, index), *output[1:])
    output.last_hidden_state = hidden.gather(1, index)
    return output
