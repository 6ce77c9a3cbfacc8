"""Where a result came from: versions, the command, hashes of what was written."""

from __future__ import annotations

import hashlib
import platform
import shlex
import sys
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headsweep.export.folders import is_weights, other_files

PACKAGE = "headsweep"
LARGEST = 64 << 30  # bytes; no shard of a model is, but a file full of holes can be


def weights_hash(folder: Path, noted: Collection[str] | None = None) -> dict[str, str]:
    """Return the SHA-256 of every weight file; of what is not ``noted``, that it is not."""
    files = [path for path in sorted(folder.iterdir()) if is_weights(path)]
    return {path.name: _hash(path, path.name, noted) for path in files}


def other_files_hash(folder: Path, noted: Collection[str] | None = None) -> dict[str, str]:
    """Return the SHA-256 of every other file of a folder, and of those below it, likewise.

    A configuration can lead to other weights or to code, and a tokenizer can be turned against
    the model, so nothing may be added. What is for people is left out: they may go on writing it.
    """
    files = {path.relative_to(folder).as_posix(): path for path in other_files(folder)}
    return {name: _hash(path, name, noted) for name, path in files.items()}


def _hash(path: Path, name: str, noted: Collection[str] | None) -> str:
    """Return the SHA-256 of a file; of one larger than any memory, that it is so."""
    if noted is not None and name not in noted:  # however large: what it holds does not matter
        return "not noted"
    if not path.is_file():
        return "no file"
    if path.stat().st_size > LARGEST:
        return "too large"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_hash(model: PreTrainedModel) -> dict[str, str]:
    """Return the SHA-256 of every tensor of a model, in float32 where it holds fractions."""
    return {
        name: hashlib.sha256(_bytes(tensor)).hexdigest()
        for name, tensor in model.state_dict().items()
    }


def _bytes(tensor: Tensor) -> bytes:
    wide = tensor.float() if tensor.is_floating_point() else tensor
    return wide.detach().cpu().contiguous().numpy().tobytes()


def environment(*more: str) -> dict[str, str]:
    """Return the versions that decide a result, and those of ``more`` packages."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    always = ("headsweep", "torch", "transformers", "safetensors", "accelerate", "numpy")
    for name in (*always, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {"threads": str(torch.get_num_threads())}


def command_line() -> str:
    """Return how this program was called, for the manifest.

    Of a program that is not headsweep's own the name alone: what it was told may be a secret.
    """
    name, above = Path(sys.argv[0]).name, [one.name for one in Path(sys.argv[0]).parents]
    if name == "__main__.py" and PACKAGE in above[:2]:
        name = PACKAGE
    return shlex.join([name, *sys.argv[1:]]) if Path(name).stem == PACKAGE else name
