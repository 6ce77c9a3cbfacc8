"""Scores that several methods share, kept in files under a hash of all that decides them.

The hash is of the model's weights and configuration, the texts as tokens with their labels, the
score with its arguments, the seed, how it is computed, and a mark of the code and versions that
compute it. So a kept score is, bit for bit, what computing it again would give.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedModel

from headsweep.drafts import write_bytes
from headsweep.model.content import content_hash


@dataclass(frozen=True)
class Taken:
    """A score that was found, and what computing it had cost."""

    name: str
    seconds: float
    cpu_seconds: float


@dataclass
class ScoreCache:
    """Keeps scores in a folder.

    Attributes:
        folder: where; made when something is kept.
        mark: names the code and the versions that compute scores.
        taken: the scores found instead of computed, so far.

    """

    folder: Path
    mark: str
    taken: list[Taken] = field(default_factory=list)

    def of(
        self,
        name: str,
        model: PreTrainedModel,
        asked: Mapping[str, Any],
        compute: Callable[[], Tensor],
    ) -> Tensor:
        """Return the score kept under this model and what is asked; compute and keep it if none is.

        Args:
            name: of the score.
            model: the model scored, as it is.
            asked: all else that decides the score, as JSON values.
            compute: gives the score, float32 [unit].

        """
        told = json.dumps([name, self.mark, asked, content_hash(model)], sort_keys=True)
        path = self.folder / f"{hashlib.sha256(told.encode()).hexdigest()}.safetensors"
        found = _read(path)
        if found is not None:
            scores, cost = found
            self.taken.append(Taken(name, *cost))
            return scores
        begun, cpu = time.monotonic(), time.process_time()
        scores = compute()
        cost = (time.monotonic() - begun, time.process_time() - cpu)
        with suppress(OSError):  # it is computed again, then
            _write(path, scores, cost)
        return scores


def _read(path: Path) -> tuple[Tensor, tuple[float, float]] | None:
    try:
        with safe_open(path, "pt") as file:
            cost = file.metadata()
            return file.get_tensor("scores"), (float(cost["seconds"]), float(cost["cpu_seconds"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None  # none, or one broken off: it is made again


def _write(path: Path, scores: Tensor, cost: tuple[float, float]) -> None:
    told = {"seconds": f"{cost[0]:.3f}", "cpu_seconds": f"{cost[1]:.3f}"}
    write_bytes(path, save({"scores": scores.contiguous()}, told))
