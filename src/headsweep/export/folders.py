"""Folders written whole, and nothing of others overwritten."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headsweep.bounded import LARGE, table_of
from headsweep.drafts import MANIFEST, draft_beside, even_modes
from headsweep.errors import UserError

OWN_FILES = (MANIFEST, "attack.json", "demo.json")  # a folder with one of these is ours to replace


def check_free(out: Path, overwrite: bool) -> None:
    """Check, before any work, that an output folder may be written; raises UserError."""
    out = out.absolute()
    if not out.name:
        raise UserError(f"{out}: is no folder to write", "choose another --out")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file", "choose a folder as --out")
    if out.exists() and not overwrite:
        raise UserError(f"{out}: exists already", "choose another --out, or give --overwrite")
    if out.exists() and any(out.iterdir()) and not _is_ours(out):
        raise UserError(
            f"{out}: not a folder that headsweep wrote, so --overwrite leaves it alone",
            "choose another --out, or remove the folder yourself",
        )
    parent = out.parent
    while not parent.exists():
        parent = parent.parent
    try:
        Path(tempfile.mkdtemp(prefix=".headsweep-", dir=parent)).rmdir()
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error


def _is_ours(folder: Path) -> bool:
    for name in OWN_FILES:
        try:
            form = table_of(folder / name, LARGE)
            if str(form.get("format")).startswith("headsweep."):
                return True
        except UserError:
            continue
    return False


@contextmanager
def drafted(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a sibling folder to write to; rename it to ``out`` when all went well."""
    check_free(out, overwrite)
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with draft_beside(out) as draft:
            yield draft
            even_modes(draft)
            _swap(draft, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error


def _swap(draft: Path, out: Path) -> None:
    """Rename a draft to ``out``; what was there goes, or comes back where that fails."""
    if not out.exists():
        draft.rename(out)
        return
    with draft_beside(out) as aside:
        out.rename(aside / "old")
        try:
            draft.rename(out)
        except BaseException:
            (aside / "old").rename(out)
            raise
