"""Matrices of a frozen model, held in the two bytes of its checkpoint and widened as they are used.

A weight of bfloat16 or float16 is exactly a number of float32. So whoever only passes texts through
a model, or trains adapters beside it, need not hold it in float32: each projection is lent its
weight in float32 for its own forward pass and, where there is one, backward pass, in which torch
computes what it would have computed anyway. All figures are the same, bit for bit. Of what autograd
would keep for the backward pass, the widened weight is left out and made again.

Held so: projections of the base model, the table of token embeddings, and what gives a generator's
answers. The rest is float32: norms, biases, and a classifier on top, which is trained beside
adapters. And no model but decoders of the table of families: other code may read a weight past its
projection (T5), or compute by the type of the first one (Longformer). Under autocast a projection
is computed as autocast would, from the narrow weight.

What adapters came to can stand beside such a weight as the two thin matrices that it is (``Thin``),
until it is rounded into it (``settle``): the model computes with their sum as with a weight of
float32, and a soup of several has no need of a sum as large as the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headsweep.model.families import FAMILIES

NARROW = (torch.bfloat16, torch.float16)
WIDE = 4  # bytes of a float32
Kept = Tensor | tuple[Any, ...]
ADDED = "added"  # of a module: what stands beside its weight


@dataclass(frozen=True)
class Thin:
    """What is added to a weight: B A, [out, in], or where that is turned, [in, out].

    Attributes:
        a: [rank, in], float32.
        b: [out, rank], float32.
        turned: as weights of a Conv1D are.

    """

    a: Tensor
    b: Tensor
    turned: bool

    def with_(self, weight: Tensor) -> Tensor:
        """Return the sum with a weight, a new tensor in float32."""
        product = self.b @ self.a
        return weight.float() + (product.T if self.turned else product)


def hold(model: PreTrainedModel) -> PreTrainedModel:
    """Widen a model to float32, in place, but for the large matrices of a narrow checkpoint.

    These are widened as they are used, to the same answers. Nothing may train them.
    """
    narrow = _holds(model.config) and model.dtype in NARROW
    found = [one for one in _matrices(model) if one.weight.dtype == model.dtype] if narrow else []
    kept = {id(module.weight) for module in found}
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and id(tensor) not in kept:
            tensor.data = tensor.data.float()
    for module in found:
        vars(module)["forward"] = partial(_widening, module)
    return model


def is_held(module: Any) -> bool:
    """Tell whether a module's weight is held narrow, so that something may stand beside it."""
    own = vars(module).get("forward")
    return isinstance(own, partial) and own.func is _widening and module.weight.dtype in NARROW


def put_beside(module: nn.Module, a: Tensor, b: Tensor) -> None:
    """Let a module that is held narrow compute with its weight and a product, not rounded."""
    setattr(module, ADDED, Thin(a, b, isinstance(module, Conv1D)))


def beside(model: nn.Module) -> dict[str, Thin]:
    """Return what stands beside weights, by their names."""
    named = model.named_modules()
    return {f"{name}.weight": vars(one)[ADDED] for name, one in named if ADDED in vars(one)}


@torch.no_grad()
def settle(model: nn.Module, keep: bool = True) -> None:
    """Round what stands beside weights into them; or drop it (``keep``)."""
    module: Any
    for module in model.modules():
        thin = vars(module).pop(ADDED, None)
        if thin is not None and keep:
            module.weight.copy_(thin.with_(module.weight))


def widen(model: PreTrainedModel) -> PreTrainedModel:
    """Give a model plain weights of float32, in place, whether it was held narrow or not."""
    settle(model)
    for module in model.modules():
        own = vars(module).get("forward")
        if isinstance(own, partial) and own.func is _widening:
            del vars(module)["forward"]
    wide: PreTrainedModel = model.float()
    return wide


@contextmanager
def seeming_wide(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let narrow weights seem to be float32, of no content: for what is made to fit their type."""
    narrow = [(weight, weight.data) for weight in weights if weight.dtype in NARROW]
    try:
        for weight, data in narrow:
            weight.data = torch.empty(1, device=data.device).expand(data.shape)
        yield
    finally:
        for weight, data in narrow:
            weight.data = data


def bytes_held(config: Any) -> int:
    """Return how many bytes a weight of a frozen model takes, by its configuration, about.

    Experts are counted as float32, which they are in most architectures.
    """
    narrow = _holds(config) and getattr(config, "dtype", None) in NARROW
    return 2 if narrow and not _has_experts(config.to_dict()) else WIDE


def _has_experts(form: Mapping[str, Any]) -> bool:
    """Tell whether a configuration, or a part of it, names a number of experts."""
    return any(
        _has_experts(one) if isinstance(one, Mapping) else "experts" in str(name) and bool(one)
        for name, one in form.items()
    )


def _holds(config: Any) -> bool:
    """Tell whether models of a configuration are held narrow."""
    family = FAMILIES.get(getattr(config, "model_type", ""))
    return family is not None and family.reads_last and not family.gate  # XLNet's are bare


def _matrices(model: PreTrainedModel) -> Iterator[Any]:
    """Yield the modules whose weight may be held narrow.

    Not one whose weight another module has as well that computes in a way of its own.
    """
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    found = [
        module
        for module in (*model.base_model.modules(), *tables)
        if isinstance(module, nn.Linear | Conv1D) or module is tables[0]
    ]
    mine = {id(module): module for module in found if isinstance(module.weight, nn.Parameter)}
    others = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if id(module) not in mine or name != "weight"
    }
    yield from (module for module in mine.values() if id(module.weight) not in others)


def _widening(module: Any, *given: Any, **named: Any) -> Any:
    """Compute what a module computes, its weight widened for as long as that takes."""
    weight, plain = module.weight, type(module).forward
    if weight.dtype not in NARROW:
        return plain(module, *given, **named)
    if plain is nn.Embedding.forward:
        return plain(module, *given, **named).float()
    thin: Thin | None = vars(module).get(ADDED)
    casts = not isinstance(module, nn.Embedding) and torch.is_autocast_enabled(weight.device.type)
    if casts and thin is None:
        return plain(module, *given, **named)

    def widened() -> Tensor:
        return weight.detach().float() if thin is None else thin.with_(weight.detach())

    wide = widened()
    place = wide.untyped_storage().data_ptr()

    def kept(tensor: Tensor) -> Kept:
        if tensor.untyped_storage().data_ptr() != place:
            return tensor
        return tensor.size(), tensor.stride(), tensor.storage_offset()

    def again(what: Kept) -> Tensor:
        return what if isinstance(what, Tensor) else widened().as_strided(*what)

    module._parameters["weight"] = wide
    try:
        with saved_tensors_hooks(kept, again):
            return plain(module, *given, **named)
    finally:
        module._parameters["weight"] = weight
