"""Randomness as an argument, and one fence around what insists on the global stream."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *names: object) -> int:
    """Return a seed of 63 bits that depends on ``seed`` and on every name."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: object) -> torch.Generator:
    """Return a CPU generator of its own for the purpose that the names describe."""
    return torch.Generator().manual_seed(derive(seed, *names))


@contextmanager
def fence(seed: int) -> Iterator[None]:
    """Seed the global streams inside (dropout, initialisation), put them back after."""
    devices = list(range(torch.cuda.device_count()))
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
