"""LoRA: healing trains two thin matrices beside every projection of the layers, and no weight.

What is added to a weight of [out, in] is B A, with B [out, rank] and A [rank, in]. Only these have
gradients and averages of the optimiser, which is what makes larger models fit into memory. When
training ends they are added to the weights for good, so that what is left is a plain model; where
these are held narrow (``model.narrow``) they stand beside until they are rounded into them.

Rows of a weight that belong to a pruned unit are rows of B, columns are columns of A. With these
held at zero while it trains, what is added to a pruned unit is zero: what was trained is what is
saved. A classifier on top is trained whole beside them; a generator's table of answers, as large
as its embeddings and often the same, stays as it is.

Source: Hu et al. 2022, *LoRA: Low-Rank Adaptation of Large Language Models*; computed by peft
(Apache-2.0). Deviation: all projections of a layer, those of the FFN too (Dettmers et al. 2023,
*QLoRA*, section 4); what is added is not scaled by a number of its own (alpha is the rank).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from headsweep.errors import MissingExtra
from headsweep.model.anatomy import Anatomy, Block, layers_of
from headsweep.model.mask import HeadMask
from headsweep.model.narrow import is_held, put_beside, seeming_wide
from headsweep.model.removal import remove
from headsweep.seeding import fence

NAME = "headsweep"  # of the adapters, in peft's tables
FASTER = 20.0  # times the learning rate of whole weights, for the same effect


@dataclass(frozen=True)
class Adapters:
    """What is trained in the place of weights.

    Attributes:
        rank: of what is added to a weight.
        layers: how many projections have one.
        trained: how many numbers are trained, those of a classifier on top included.
        pinned: views of those that would be added to pruned units.

    """

    rank: int
    layers: int
    trained: int
    pinned: tuple[Tensor, ...]

    def to_json(self) -> dict[str, int]:
        """Return it for a manifest."""
        return {"rank": self.rank, "layers": self.layers, "trained": self.trained}


def check_installed() -> None:
    """Raise MissingExtra where peft is not installed."""
    if find_spec("peft") is None:
        raise MissingExtra("adapters (lora)", "lora")


def moved(anatomy: Anatomy) -> frozenset[str]:
    """Return the names of the parameters that healing with adapters changes."""
    return frozenset([f"{name}.weight" for name in _projections(anatomy)] + [*_on_top(anatomy)])


@contextmanager
def adapters(anatomy: Anatomy, mask: HeadMask, rank: int, seed: int) -> Iterator[Adapters]:
    """Put adapters into a model, to be trained in this context; add them to its weights then.

    Where training fails its weights stay as they were. The model has no trace of peft afterwards.

    Args:
        anatomy: the model, pruned.
        mask: what is pruned, and stays at zero.
        rank: of what is added to a weight.
        seed: decides what A begins with; B begins with zeros.

    Raises:
        MissingExtra: peft is not installed.

    """
    model = anatomy.model
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    on_top = _on_top(anatomy)
    tuner, thin = _wrapped(anatomy, rank, seed)
    try:
        pinned = tuple(_pinned(anatomy, mask, thin))
        for piece in pinned:
            piece.zero_()
        for parameter in on_top.values():
            parameter.requires_grad_(True)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        yield Adapters(rank, len(thin), trained, pinned)
    except BaseException:
        tuner.unload()
        raise
    else:
        for layer in thin.values():
            _merge(layer)
        tuner.unload()
        remove(anatomy, mask)
    finally:
        for parameter, before in wanted:
            parameter.requires_grad_(before)


def _merge(layer: Any) -> None:
    """Add what was trained to the weight, or put it beside one that would have to be rounded."""
    own = layer.get_base_layer()
    if is_held(own):
        put_beside(own, *(x[NAME].weight.detach() for x in (layer.lora_A, layer.lora_B)))
    else:
        layer.merge()


def _wrapped(anatomy: Anatomy, rank: int, seed: int) -> tuple[Any, dict[int, Any]]:
    """Put adapters into a model; return what takes them out, and them by their weight's id."""
    check_installed()
    from peft import LoraConfig, LoraModel

    named: dict[str, Any] = _projections(anatomy)
    turned = any(isinstance(module, Conv1D) for module in named.values())
    asked = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=[*named], fan_in_fan_out=turned, bias="none"
    )
    weights = [module.weight for module in named.values()]
    with fence(seed), warnings.catch_warnings(), seeming_wide(weights):  # A and B are of float32
        warnings.simplefilter("ignore")  # a model may have projections of both kinds
        tuner = LoraModel(anatomy.model, asked, NAME)
    return tuner, {id(m.weight): anatomy.model.get_submodule(name) for name, m in named.items()}


def _projections(anatomy: Anatomy) -> dict[str, nn.Module]:
    """Return the projections of the layers whose heads are known, by name.

    A Linear of a class of its own may give more than a product, as a router of experts does: it is
    one where a row of the families says so (Falcon's).
    """
    inside = {id(module) for layer in layers_of(anatomy) for module in layer.modules()}
    known = {id(block.parameter) for site in anatomy.sites for block in site.blocks}
    return {
        name: module
        for name, module in anatomy.model.named_modules()
        if id(module) in inside
        and (
            type(module) in (nn.Linear, Conv1D)
            or (isinstance(module, nn.Linear) and id(module.weight) in known)
        )
    }


def _on_top(anatomy: Anatomy) -> dict[str, nn.Parameter]:
    """Return the parameters of a classifier on the base model; of a generator none."""
    model = anatomy.model
    table = model.get_output_embeddings()
    left = [model.base_model] if table is None else [model.base_model, table]
    known = {id(parameter) for module in left for parameter in module.parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) not in known}


def _pinned(anatomy: Anatomy, mask: HeadMask, thin: dict[int, Any]) -> Iterator[Tensor]:
    """Yield views of what would be added to the weights of pruned units."""
    for site, keep in zip(anatomy.sites, mask.rows, strict=True):
        for block in site.blocks:
            layer = thin.get(id(block.parameter))
            if layer is not None:
                yield from (_piece(layer, block, index) for index in block.removed(keep))


def _piece(layer: Any, block: Block, index: int) -> Tensor:
    """Return the view of a block in the matrix that has its axis: B that of outputs, A the other.

    Weights of a Linear are [out, in], of a Conv1D [in, out].
    """
    outputs = 1 if isinstance(layer.get_base_layer(), Conv1D) else 0
    if block.axis == outputs:
        matrix, axis = layer.lora_B[NAME].weight, 0  # [out, rank]
    else:
        matrix, axis = layer.lora_A[NAME].weight, 1  # [rank, in]
    found: Tensor = matrix.detach().narrow(axis, block.starts[index], block.width)
    return found
