"""Where and how to compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import psutil
import torch
from transformers import PreTrainedModel

from headsweep.errors import ShortOfMemory, UserError
from headsweep.model.limits import limit_left
from headsweep.settings import checked

Precision = Literal["auto", "fp32", "bf16"]

USUAL_CACHE = 512 << 20


@dataclass(frozen=True)
@checked
class Runtime:
    """Where and how to compute.

    Attributes:
        device: a torch device such as ``cpu`` or ``cuda:1``; ``auto`` lets accelerate choose.
        batch_size: examples a batch.
        max_length: tokens a text, at most; the model's own limit if that is lower.
        precision: ``fp32``, ``bf16`` (autocast in training), or ``auto``: bf16 where the
            processor or GPU computes in it. Every reported accuracy is measured in fp32.
        measure_in: what a search measures masks in: ``fp32``; ``bf16``, where answers that bf16
            could have changed are taken again in fp32; ``auto``: bf16 where training is.
        cache_mib: memory for hidden states that masks share, in MiB; 0: none; None: a quarter of
            what is free, at most 512.
        jobs: processes for healings that are averaged, on a processor; None: as many as pay.

    """

    device: str = "auto"
    batch_size: int = 32
    max_length: int = 128
    precision: Precision = "auto"
    measure_in: Precision = "auto"
    cache_mib: int | None = None
    jobs: int | None = None

    def __post_init__(self) -> None:
        if self.cache_mib is not None and self.cache_mib < 0:
            raise UserError(f"a cache of {self.cache_mib} MiB", "use 0 for none")
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"{self.jobs} jobs", "give 1 or more")
        if self.batch_size < 1 or self.max_length < 3:
            raise UserError("batch_size must be at least 1 and max_length at least 3")

    @property
    def torch_device(self) -> torch.device:
        """The device; raises UserError when it is not there."""
        if self.device == "auto":
            from accelerate import PartialState

            return torch.device(PartialState().device)
        try:
            device = torch.device(self.device)
            torch.zeros(1, device=device).cpu()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(
                f"device '{self.device}' cannot be used: {reason}", "use --device cpu"
            ) from error
        return device

    def trains_in_bf16(self) -> bool:
        """Tell whether training autocasts to bf16; raises UserError if asked for in vain."""
        able = computes_bf16(self.torch_device)
        if self.precision == "bf16" and not able:
            raise UserError("bf16 was asked for, but this machine does not compute in it", "fp32")
        return able and self.precision != "fp32"

    def measures_in_bf16(self) -> bool:
        """Tell whether a search measures in bf16; raises UserError if asked for in vain."""
        if self.measure_in == "auto":
            return self.trains_in_bf16()
        if self.measure_in == "bf16" and not computes_bf16(self.torch_device):
            raise UserError(
                "masks were to be measured in bf16, but this machine does not compute in it",
                "use --compute measure_in=fp32",
            )
        return self.measure_in == "bf16"

    @property
    def cache_now(self) -> int:
        """Bytes for shared hidden states: as many as were asked for, or what is free in the end."""
        try:
            return self.cache_bytes
        except ShortOfMemory:  # it was free when it was asked for
            return free_bytes(self.torch_device) // 4

    @property
    def cache_bytes(self) -> int:
        """Bytes for shared hidden states; raises ShortOfMemory when they are not free."""
        free = free_bytes(self.torch_device)
        if self.cache_mib is None:
            return min(free // 4, USUAL_CACHE)
        if self.cache_mib << 20 > free:
            raise ShortOfMemory(
                f"a cache of {self.cache_mib} MiB does not fit: {free >> 20} MiB are free",
                "lower cache_mib, or leave it out",
            )
        return self.cache_mib << 20


def placed(model: PreTrainedModel, runtime: Runtime) -> PreTrainedModel:
    """Return a model where it is to be: one whose layers lie on several devices stays there."""
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return model
    return model.to(runtime.torch_device)  # type: ignore[arg-type,no-any-return]


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Compute with so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def free_bytes(device: torch.device) -> int:
    """Return how much memory of a device is free."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    left = limit_left()
    return free if left is None else min(free, left)


def computes_bf16(device: torch.device) -> bool:
    """Tell whether a device computes in bf16 rather than emulating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(known.get("avx512_bf16") or known.get("amx_bf16") or known.get("bf16"))
    return False
