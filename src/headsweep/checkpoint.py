"""One file in which a long choice keeps how far it has come, to go on from after an interruption.

The file holds tensors, JSON values and a hash of all that decides the choice: what is taken up
again ends as if nothing had happened, and a file of another run is refused, not used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from headsweep.errors import UserError


def digest(asked: Any) -> str:
    """Return a hash of JSON values."""
    told = json.dumps(asked, sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A file of a choice under way.

    Attributes:
        path: where; made with the first ``save``.

    """

    path: Path

    def load(self, key: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return what was kept under this key, values and tensors; None where there is no file.

        Raises:
            UserError: it is of another run, or damaged.

        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                told = file.metadata()
                if told["key"] == key:
                    names = file.keys()  # no mapping: an opened file
                    tensors = {name: file.get_tensor(name) for name in names}
                    return json.loads(told["state"]), tensors
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.path}: is damaged", "remove it, to begin anew") from error
        raise UserError(
            f"{self.path}: is of an interrupted run with other settings, data or model",
            "give those to go on from it, or remove it",
        )

    def save(self, key: str, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write the file whole, over what was there.

        Raises:
            UserError: it cannot be written.

        """
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}.draft")
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(save(whole, {"key": key, "state": json.dumps(state)}))
            draft.replace(self.path)
        except OSError as error:
            told = f"{self.path}: cannot be written: {error.strerror or error}"
            raise UserError(told, "an interrupted run is kept there") from error
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
