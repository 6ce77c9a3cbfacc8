"""Where a result came from: versions, the command, hashes of what was written."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headsweep.drafts import MANIFEST

READ_BY_LOADERS = (".bin", ".jinja", ".json", ".model", ".pt", ".pth", ".py", ".txt")


def weights_hash(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every weight file."""
    return _hashes(folder, lambda path: path.suffix == ".safetensors")


def other_files_hash(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every other file that loading the folder may read or run.

    A configuration can lead to other weights or to code, and a tokenizer can be turned against
    the model. The model card is for people, who may go on writing it.
    """
    return _hashes(folder, lambda path: path.suffix in READ_BY_LOADERS and path.name != MANIFEST)


def _hashes(folder: Path, wanted: Callable[[Path], bool]) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file() and wanted(path)
    }


def tensors_hash(model: PreTrainedModel) -> dict[str, str]:
    """Return the SHA-256 of every tensor of a model, in float32 where it holds fractions."""
    return {
        name: hashlib.sha256(_bytes(tensor)).hexdigest()
        for name, tensor in model.state_dict().items()
    }


def _bytes(tensor: Tensor) -> bytes:
    wide = tensor.float() if tensor.is_floating_point() else tensor
    return wide.detach().cpu().contiguous().numpy().tobytes()


def environment() -> dict[str, str]:
    """Return the versions that decide a result."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("headsweep", "torch", "transformers", "safetensors", "accelerate", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {"threads": str(torch.get_num_threads())}


def command_line() -> str:
    """Return how this program was called, for the manifest."""
    name = Path(sys.argv[0]).name
    return " ".join(["headsweep" if name == "__main__.py" else name, *sys.argv[1:]])
