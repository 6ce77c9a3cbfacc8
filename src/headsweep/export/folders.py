"""Folders written whole, and nothing of others overwritten."""

from __future__ import annotations

import atexit
import ctypes
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headsweep.bounded import MIDDLE, table_of
from headsweep.drafts import (
    COMPACT,
    EXPORT,
    MANIFEST,
    draft_beside,
    even_modes,
    is_at_work,
    placed,
    write_json,
)
from headsweep.errors import UserError, shown
from headsweep.foreign import one_line

RECORDS = (EXPORT, COMPACT, "attack.json", "demo.json")  # each names the files beside it
OWN_FILES = (MANIFEST, *RECORDS)  # a folder with one of these is ours to replace

FOR_PEOPLE = ("readme.md", ".gitattributes")  # the card is theirs to write, the other the Hub's
HISTORY = ".git"
NOT_LOADED = (HISTORY, ".cache")  # folders that downloads add
PAGE = ".html"
WEIGHTS = ".safetensors"

OF_SYSTEM = "(os error "  # in errors of safetensors and tokenizers, which are no OSError
DRAFT, OLD = re.compile(r"\.[0-9a-f]{8}"), "old"
_RESERVED: dict[Path, socket.socket] = {}  # what this process keeps others out of


def check_free(out: Path, overwrite: bool, reads: Iterable[object] = ()) -> None:
    """Check, before any work, that an output folder may be written; raises UserError.

    ``reads``: what the run reads, files and folders among it: they must not lie in ``out``.
    """
    out = placed(out)
    if not out.name:
        raise UserError(f"{out}: is no folder to write", "choose another --out")
    try:
        str(out).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{out}: this path is not written in UTF-8, and weights cannot be saved there",
            "choose another --out, or run it in a UTF-8 locale",
        ) from error
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file", "choose a folder as --out")
    if out.exists() and os.path.ismount(out):
        raise UserError(
            f"{out}: is a mount point, which nothing can be put in the place of",
            "choose a folder inside it",
        )
    if out.exists() and not overwrite:
        raise UserError(f"{out}: exists already", "choose another --out, or give --overwrite")
    for one in stored(reads):
        if one.resolve().is_relative_to(out.resolve()):
            raise UserError(
                f"{out}: holds {one}, which is read here and would be replaced",
                "choose another --out",
            )
        if one.is_dir() and out.resolve().is_relative_to(one.resolve()) and _is_ours(one):
            raise UserError(
                f"{out}: lies in {one}, whose files headsweep verifies", "choose another --out"
            )
    for above in out.resolve().parents:
        if _is_ours(above, (MANIFEST,)):
            raise UserError(
                f"{out}: lies in {above}, whose files headsweep verifies",
                "choose another place, outside that folder",
            )
    if out.exists() and _runs_in(out):
        raise UserError(
            f"{out}: is the folder that this runs in, or above it, and would be replaced",
            "run it from elsewhere, or choose another --out",
        )
    if out.exists() and any(out.iterdir()) and not _is_ours(out):
        raise UserError(
            f"{out}: not a folder that headsweep wrote, so --overwrite leaves it alone",
            "choose another --out, or remove the folder yourself",
        )
    foreign = _not_written(out) if out.exists() else None
    if foreign is not None:
        raise UserError(
            f"{out}: holds {shown(foreign)}, which headsweep did not write and --overwrite would "
            "remove",
            "move it elsewhere, or choose another --out",
        )
    parent = out.parent
    while not parent.exists():
        parent = parent.parent
    try:
        Path(tempfile.mkdtemp(prefix=".headsweep-", dir=parent)).rmdir()
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error
    reserve(out)


def _runs_in(out: Path) -> bool:
    """Tell whether this process is in a folder, or below: its shell would be left in none."""
    with suppress(OSError):  # it is in none already
        return Path.cwd().is_relative_to(out.resolve())
    return False


@contextmanager
def kept_free(out: Path, overwrite: bool, reads: Iterable[object] = ()) -> Iterator[None]:
    """Check as ``check_free`` does, and keep other runs out of a folder until this is left."""
    check_free(out, overwrite, reads)
    try:
        yield
    finally:
        _free(out)


def check_apart(file: Path, out: Path | None = None) -> None:
    """Refuse a file among those that headsweep verifies, unless it is a page; raises UserError.

    ``out``: a folder that is to be written, and to be verified then.
    """
    file, beside = placed(file).resolve(), None if out is None else placed(out).resolve()
    for folder in file.parents:
        ours = _is_ours(folder, (MANIFEST,)) or folder == beside
        if ours and not (file.parent == folder and file.suffix.lower() == PAGE):
            raise UserError(
                f"{file}: lies in {folder}, whose files headsweep verifies",
                f"choose another place: of others only a page ({PAGE}) may lie beside them",
            )


def stored(reads: Iterable[object]) -> tuple[Path, ...]:
    """Return those of what is read that are files or folders here, by their absolute paths."""
    named = (one for one in reads if isinstance(one, str | Path))
    there = (one for one in named if os.path.exists(one))  # noqa: PTH110 - Path's raises at long texts
    return tuple(Path(one).absolute() for one in there)


def _is_ours(folder: Path, names: Iterable[str] = OWN_FILES) -> bool:
    for name in names:
        try:
            form = table_of(folder / name, MIDDLE)
            if str(form.get("format")).startswith("headsweep."):
                return True
        except UserError:
            continue
    return False


def _not_written(folder: Path) -> str | None:
    """Return the first file of a folder that the record in it does not name.

    None where there is none, or where the record, of an earlier headsweep, names no files.
    """
    known = _named_files(folder)
    if known is None:
        return None
    there = [*filter(is_weights, sorted(folder.iterdir())), *other_files(folder)]
    names = [path.relative_to(folder).as_posix() for path in there]
    names += [HISTORY] * (folder / HISTORY).exists()
    return next((name for name in names if name not in known), None)


def _named_files(folder: Path) -> set[str] | None:
    with suppress(UserError):
        manifest = table_of(folder / MANIFEST, MIDDLE)
        hashes = [manifest.get(key) for key in ("weights_sha256", "other_files_sha256")]
        if all(isinstance(one, dict) for one in hashes):
            return {name for one in hashes if isinstance(one, dict) for name in one}
    for record in RECORDS:
        with suppress(UserError):
            files = table_of(folder / record, MIDDLE).get("holds")
            if isinstance(files, list):
                return {record, *map(str, files)}
    return None


def _name_files(folder: Path) -> None:
    """Have the record of a folder that is no purified model's name the files beside it."""
    for record in RECORDS:
        if (folder / record).is_file() and not (folder / MANIFEST).exists():
            form = json.loads((folder / record).read_text("utf-8"))
            files = (path for path in sorted(folder.rglob("*")) if path.is_file())
            named = [path.relative_to(folder).as_posix() for path in files]
            write_json(folder / record, form | {"holds": named})


def is_weights(path: Path) -> bool:
    """Tell whether a file holds weights."""
    return path.is_file() and path.suffix.lower() == WEIGHTS


def other_files(folder: Path) -> list[Path]:
    """Return the files of a model's folder beside its weights and manifest, and those below it.

    What is for people is left out: the card, pages, and what downloads add.
    """
    return [
        path
        for path in sorted(folder.rglob("*"))
        if not _is_folder(path) and not _for_people(path.relative_to(folder))
        if path.parent != folder or not (is_weights(path) or path.name == MANIFEST)
    ]


def _is_folder(path: Path) -> bool:
    """Tell whether it is a folder whose files are looked at; a link to one is not."""
    return path.is_dir() and not path.is_symlink()


def _for_people(path: Path) -> bool:
    if len(path.parts) > 1:
        return path.parts[0] in NOT_LOADED
    return path.name.lower() in FOR_PEOPLE or path.suffix.lower() == PAGE


@contextmanager
def drafted(out: Path, overwrite: bool, reads: Iterable[object] = ()) -> Iterator[Path]:
    """Yield a sibling folder to write to; rename it to ``out`` when all went well.

    ``reads`` and errors as for ``check_free``.
    """
    check_free(out, overwrite, reads)
    out = placed(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _clear(out)
        if out.exists():  # a run that died may have left it, and it was put back
            check_free(out, overwrite, reads)
        with draft_beside(out) as draft:
            yield draft
            _name_files(draft)
            even_modes(draft)
            _swap(draft, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error
    except Exception as error:
        if isinstance(error, UserError) or OF_SYSTEM not in str(error):
            raise
        what = f"{out}: cannot be written: {one_line(str(error))}"
        raise UserError(what, "make room, or choose another --out") from error
    finally:
        _free(out)


def _swap(draft: Path, out: Path) -> None:
    """Put a draft in the place of ``out``; what was there goes, or comes back where that fails.

    Linux exchanges the two at once, so that one of them is there at any moment. Elsewhere there is
    a moment between two renames; a run that dies in it leaves the old folder in a draft, and the
    next run puts it back.
    """
    if not out.exists():
        draft.rename(out)
        return
    if _exchanged(draft, out):
        return
    with draft_beside(out) as aside:
        out.rename(aside / OLD)
        try:
            draft.rename(out)
        except BaseException:
            (aside / OLD).rename(out)
            raise


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, where the system can; tell whether it did."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return not rename(here, os.fsencode(one), here, os.fsencode(other), exchange)


def reserve(out: Path) -> None:
    """Keep other runs on this machine out of a folder until it is written or this process ends.

    A name that Linux gives to one socket only, and takes back when its process is gone however it
    went: nothing is left on the disk. Other systems have no such name, and no such promise.
    """
    out = out.resolve()
    if out in _RESERVED or not sys.platform.startswith("linux"):
        return
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0headsweep-{hashlib.sha256(os.fsencode(out)).hexdigest()}")
    except OSError as error:
        mark.close()
        if error.errno != errno.EADDRINUSE:
            return  # no such sockets here
        raise UserError(
            f"{out}: another run is writing it", "wait for it, or choose another --out"
        ) from error
    _RESERVED[out] = mark


@atexit.register
def _free_all() -> None:
    for out in tuple(_RESERVED):
        _free(out)


def _free(out: Path) -> None:
    mark = _RESERVED.pop(out.resolve(), None)
    if mark is not None:
        mark.close()


def _clear(out: Path) -> None:
    """Remove drafts of runs that died; where one holds the old folder, put that back.

    Only where this run has the folder reserved: then no other is at work on it.
    """
    if out.resolve() not in _RESERVED:
        return
    for draft in out.parent.glob(f".{glob.escape(out.name)}.*"):
        if not DRAFT.fullmatch(draft.name[len(out.name) + 1 :]) or draft.is_symlink():
            continue
        at_work = is_at_work(draft)
        if (draft / OLD).is_dir() and not out.exists():
            (draft / OLD).rename(out)
        if not at_work:
            shutil.rmtree(draft, ignore_errors=True)
