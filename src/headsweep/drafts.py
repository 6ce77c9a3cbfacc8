"""Files written whole: to a draft beside, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from headsweep.errors import UserError, shortened
from headsweep.foreign import in_json

MANIFEST = "headsweep.json"  # the record of a purification, in the folder that it wrote
COMPACT = "headsweep-compact.json"  # what a compact model was cut by, in its folder
EXPORT = "export.json"  # the same of an export
YOUNG = 3600.0  # seconds
OF_FILE = re.compile(r"\.[0-9a-f]{4}\.([0-9]+)\.draft$")
"""How the name of a file's draft ends: where it was written, and by which process."""


def placed(path: Path) -> Path:
    """Return where a file or folder lies: behind a link, what is written is what it points to."""
    try:
        real = path.resolve()
        return real if path.is_symlink() else path.absolute()
    except (OSError, RuntimeError, ValueError) as error:  # a link that leads to itself
        why = getattr(error, "strerror", None) or "a link that leads to itself"
        told = f"{shortened(str(path), 200)}: cannot be reached: {why}"
        raise UserError(told, "choose another place") from error


@cache
def here() -> str:
    """Return a mark of this machine, since it was started, and of this container."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
        parts.append(str(Path("/proc/self/ns/net").stat().st_ino))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:4]


def is_at_work(draft: Path) -> bool:
    """Tell whether a draft of another container or machine was written to a short time ago.

    What keeps runs apart does not reach there; here it does, so that a draft left here is dead.
    """
    if f".{here()}" in draft.name:
        return False
    with suppress(OSError):
        written = [path.lstat().st_mtime for path in (draft, *draft.rglob("*"))]
        return time.time() - max(written) < YOUNG
    return False


def remove_dead_drafts(folder: Path) -> None:
    """Remove the drafts of files, in a folder and below, whose process died while it wrote them.

    Other processes may write there now.
    """
    for draft in folder.rglob("*.draft"):
        process = OF_FILE.search(draft.name)
        if process and not (_runs(int(process[1])) or is_at_work(draft)):
            draft.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Tell whether another process of a number runs here."""
    import psutil

    return process != os.getpid() and bool(psutil.pid_exists(process))


@contextmanager
def draft_beside(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside another, to be filled and renamed; remove what is left of it."""
    draft = folder.with_name(f".{folder.name}.{here()}{secrets.token_hex(2)}")
    draft.mkdir()  # not mkdtemp, whose folders nobody else may read
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def even_modes(folder: Path) -> None:
    """Give every file below the mode that the umask gives a new file here.

    safetensors writes its files for the owner only, whatever the umask says.
    """
    new = folder / f".{secrets.token_hex(4)}"
    new.touch()
    mode = stat.S_IMODE(new.stat().st_mode)
    new.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def write_json(path: Path, form: Mapping[str, Any]) -> None:
    """Write JSON whole, to a draft, then renamed; its folder is made."""
    text = in_json(json.dumps(form, indent=1, ensure_ascii=False, allow_nan=False))
    write_bytes(placed(path), f"{text}\n".encode())


def if_it_can(write: Callable[[], None], tell: Callable[[str], None]) -> None:
    """Write what only an interrupted run would need: a disk that does not hold it ends no run."""
    try:
        write()
    except OSError as error:
        tell(
            f"note: what is finished cannot be kept ({error.strerror or error}): where this run is "
            "interrupted, it begins before it again"
        )


def write_bytes(path: Path, whole: bytes) -> None:
    """Write bytes whole, to a draft, then renamed; its folder is made.

    Two processes may do so at once: each has a draft of its own, and the last stays.
    """
    draft = path.with_name(f"{path.name}.{here()}.{os.getpid()}.draft")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        draft.write_bytes(whole)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
