"""Which files of a model's folder are opened: looked at before transformers is let near them.

Weights are safetensors by content: the header is read here, and its lengths, types and shapes must
give exactly the file's size. They lie in the folder: a link may lead out of it only as the Hub's
cache links, from ``snapshots/REVISION`` to ``blobs`` beside.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headsweep.bounded import MIB, check_depth, size_of, table_of
from headsweep.errors import UserError, shortened, shown

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
LONGEST_HEADER = 64 * MIB
MOST_TENSORS = 1_000_000
MOST_SHARDS = 1_000
WIDTHS = {  # bits of an element
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
    "U64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
KEPT = ("F32", "F16", "BF16")  # what is saved as it was read
PLAIN_NAME = re.compile(r"[\w.+-][\w.+ -]*")
FIX = "the download may be cut: get it again"
PICKLE_FIX = (
    "where you trust it, load it elsewhere and save it again with save_pretrained(folder), which "
    "writes safetensors"
)


@dataclass(frozen=True)
class Shard:
    """One file of weights: the shapes of its tensors, by name."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file of a folder that may be opened.

    Raises:
        UserError: it is no plain name, leads out of the folder, or is no regular file.

    """
    path = folder / name
    if not PLAIN_NAME.fullmatch(name) or name.startswith("..") or Path(name).name != name:
        raise UserError(f"{folder}: names the file {shown(name)}, which is not one in the folder")
    try:
        home, real = folder.resolve(strict=True), path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or "a link that leads nowhere"
        raise UserError(f"{path}: cannot be read: {why}") from error
    if real.parent != home and not in_blobs(home, real):
        raise UserError(
            f"{path}: a link that leads out of the folder", "put the file itself in its place"
        )
    return path


def in_blobs(home: Path, real: Path) -> bool:
    """Tell whether a file is where the Hub's cache puts the content of a snapshot's files."""
    places = [one for one in (home, *home.parents) if one.parent.name == "snapshots"]
    return any(real.parent == one.parent.parent / "blobs" for one in places)


def there(folder: Path, name: str) -> bool:
    """Tell whether a folder has an entry of a name, of whatever kind."""
    path = folder / name
    return path.is_symlink() or path.exists()


def shards_of(folder: Path, named: object = None) -> tuple[Shard, ...]:
    """Return the files of weights that are to be opened, each looked through.

    Args:
        folder: the folder of the model.
        named: what its configuration names as its weights, if it does.

    Raises:
        UserError: there are none, or one is not what its name says.

    """
    first = WEIGHTS if named is None else named
    if not isinstance(first, str) or not first.endswith(
        (".safetensors", ".safetensors.index.json")
    ):
        raise UserError(
            f"{folder}/config.json: transformers_weights names {shown(first)}, not safetensors",
            "only safetensors are read: " + PICKLE_FIX,
        )
    if first.endswith(".safetensors") and (named is not None or there(folder, first)):
        return (shard(inside(folder, first)),)
    index = INDEX if named is None else first
    if there(folder, index):
        return _indexed(folder, index)
    raise _no_weights(folder)


def _indexed(folder: Path, index: str) -> tuple[Shard, ...]:
    """Return the shards that an index names, each with the tensors that it is said to hold."""
    path = inside(folder, index)
    places = table_of(path, LONGEST_HEADER).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{path}: no weight_map, which says where the tensors are", FIX)
    if not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{path}: a weight_map that names no files", FIX)
    names = sorted(set(places.values()))
    if len(names) > MOST_SHARDS:
        raise UserError(f"{path}: names {len(names)} files; {MOST_SHARDS} are the most")
    other = next((name for name in names if not name.endswith(".safetensors")), None)
    if other is not None:
        raise UserError(
            f"{path}: names {shown(other)}, which is not safetensors",
            "only those are read: " + PICKLE_FIX,
        )
    shards = tuple(shard(inside(folder, name)) for name in names)
    for one in shards:
        said = {tensor for tensor, name in places.items() if name == one.path.name}
        lacking = sorted(said - set(one.shapes))
        if lacking:
            raise UserError(f"{one.path}: lacks {shortened(lacking[0])}, which {index} names", FIX)
    return shards


def _no_weights(folder: Path) -> UserError:
    if any(next(folder.glob(kind), None) for kind in PICKLES):
        return UserError(
            f"{folder}: only a pickle checkpoint, which can run code when loaded", PICKLE_FIX
        )
    other = next(iter(sorted(folder.glob("*.safetensors"))), None)
    more = f" (but {other.name}, which nothing names)" if other else ""
    return UserError(f"{folder}: no {WEIGHTS} and no {INDEX}{more}")


def shard(path: Path) -> Shard:
    """Return what a safetensors file holds by its own header; raises UserError."""
    size = size_of(path, None)
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", start)[0] if len(start := file.read(8)) == 8 else size
            if not 2 <= length <= size - 8:
                raise _broken(path, "its header is longer than the file")
            if length > LONGEST_HEADER:
                raise _broken(path, f"a header of {length} bytes")
            header = file.read(length)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return Shard(path, _shapes(path, header, size - 8 - length))


def _broken(path: Path, why: str) -> UserError:
    return UserError(f"{path}: broken safetensors file: {why}", FIX)


def _shapes(path: Path, header: bytes, size: int) -> dict[str, tuple[int, ...]]:
    try:
        form = json.loads(header.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _broken(path, "its header is not JSON (a pickle under another name?)") from error
    if not isinstance(form, dict) or len(form) > MOST_TENSORS:
        raise _broken(path, "its header is no table of tensors")
    check_depth(form, str(path), FIX)
    form.pop("__metadata__", None)
    spans, shapes = [], {}
    for name, entry in form.items():
        begin, end, shape = _entry(path, name, entry)
        spans.append((begin, end))
        shapes[name] = shape
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise _broken(path, "tensors overlap, or leave holes between them")
        at = end
    if at != size:
        raise _broken(path, f"{size} bytes of tensors, {at} by the header")
    return shapes


def _entry(path: Path, name: str, entry: object) -> tuple[int, int, tuple[int, ...]]:
    """Return where a tensor begins and ends, and its shape, which must agree."""
    try:
        assert isinstance(entry, dict)
        bits, shape, (begin, end) = WIDTHS[entry["dtype"]], entry["shape"], entry["data_offsets"]
        numbers = (*shape, begin, end)
        fits = all(type(n) is int and 0 <= n < 1 << 60 for n in numbers) and len(shape) <= 16
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise _broken(path, f"the entry of {shortened(name)} is none of a tensor") from error
    if not fits or math.prod(shape) * bits != 8 * (end - begin):
        raise _broken(path, f"shape and length of {shortened(name)} do not agree")
    kind = entry["dtype"]
    if bits < 8 or kind.startswith("F8") or (name.endswith("weight") and kind not in KEPT):
        raise UserError(
            f"{path}: {shortened(name)} is stored as {kind}: such weights cannot be changed and "
            "saved as they were",
            f"give the model in full precision, as one of {', '.join(KEPT)}",
        )
    return begin, end, tuple(shape)


def index_of(shards: tuple[Shard, ...]) -> dict[str, Any]:
    """Return an index that says of every tensor which of these files holds it."""
    return {
        "metadata": {},
        "weight_map": {tensor: one.path.name for one in shards for tensor in one.shapes},
    }
