"""A training that is finished, in a file: the weights that it left, and what it wrote down.

So an interrupted run goes on after it, to the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from transformers import PreTrainedModel

from headsweep.drafts import if_it_can, write_bytes
from headsweep.model.narrow import beside, put_beside

TOLD = "told"
Tell = Callable[[str], None]
A, B = ".thin_a", ".thin_b"  # behind the name of the weight that they stand beside


def once(
    file: Path | None,
    model: PreTrainedModel,
    work: Callable[[], dict[str, Any]],
    names: Collection[str] | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Return what some work on a model wrote down; the model has the weights that it left.

    Args:
        file: where they are kept; taken from there where they are. None: nowhere.
        model: it is changed in place.
        work: changes it, and returns JSON values.
        names: of the parameters that it may change; None: all.
        tell: is told where the file cannot be written: only an interrupted run would need it.

    Raises:
        OSError: the file cannot be written, and nobody is told.

    """
    told = taken(file, model, names)
    if told is None:
        told = work()
        put(file, model, told, names, tell)
    return told


def put(
    file: Path | None,
    model: PreTrainedModel,
    told: dict[str, Any],
    names: Collection[str] | None = None,
    tell: Tell | None = None,
) -> None:
    """Write the parameters, each once though several names may share it, and what is told.

    Of one that something stands beside (``model.narrow``), only that is written. ``tell`` as for
    ``once``.
    """
    if file is not None:
        own: dict[str, Tensor] = dict(_parameters(model, names))
        for name, thin in beside(model).items():
            del own[name]
            own |= {name + A: thin.a, name + B: thin.b}
        own = {name: tensor.detach().contiguous() for name, tensor in own.items()}
        write = partial(write_bytes, file, save(own, {TOLD: json.dumps(told)}))
        write() if tell is None else if_it_can(write, tell)


def taken(
    file: Path | None, model: PreTrainedModel, names: Collection[str] | None = None
) -> dict[str, Any] | None:
    """Give a model the weights in a file, and return what is told; None: there are none."""
    if file is None:
        return None
    parameters = _parameters(model, names)
    try:
        with safe_open(file, "pt") as kept, torch.no_grad():
            found = {*kept.keys()}
            if {name.removesuffix(A).removesuffix(B) for name in found} != {*parameters}:
                return None
            told: dict[str, Any] = json.loads(kept.metadata()[TOLD])
            for name, parameter in parameters.items():
                if name in found:
                    parameter.copy_(kept.get_tensor(name))
                else:
                    thin = (kept.get_tensor(name + part).to(parameter.device) for part in (A, B))
                    put_beside(model.get_submodule(name.removesuffix(".weight")), *thin)
    except (OSError, SafetensorError):
        return None  # none, or one broken off: it is made again
    return told


def _parameters(model: PreTrainedModel, names: Collection[str] | None) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if names is None or n in names}
