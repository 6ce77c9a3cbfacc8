"""A hash of what a model is: its weights, as float32, and its configuration."""

from __future__ import annotations

import hashlib
import json

import torch
from transformers import PreTrainedModel

PLACES = ("_name_or_path", "_attn_implementation", "_attn_implementation_internal")


def content_hash(model: PreTrainedModel) -> str:
    """Return a hash of a model's weights, widened to float32, and of its configuration."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in PLACES}
    found = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        wide = tensor.float() if tensor.is_floating_point() else tensor
        found.update(f"{name} {wide.dtype} {tuple(wide.shape)}".encode())
        plain = wide.detach().cpu().contiguous().reshape(-1)
        found.update(plain.view(torch.uint8).numpy().data)
    return found.hexdigest()
