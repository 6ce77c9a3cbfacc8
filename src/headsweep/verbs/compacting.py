"""``compact`` and ``load``: a purified model with its pruned units cut out."""

from __future__ import annotations

from pathlib import Path

from headsweep.export.compact import Compacted, compact_folder, load
from headsweep.settings import fitting

__all__ = ["Compacted", "compact", "load"]


def compact(folder: str | Path, out: str | Path, *, overwrite: bool = False) -> Compacted:
    """Write a purified folder's model with its pruned units cut out, so that it is smaller.

    Args:
        folder: what ``purify`` wrote.
        out: the folder to write.
        overwrite: replace a folder that headsweep wrote.

    Returns:
        How much smaller it is, and whether plain ``from_pretrained`` loads it or only
        ``headsweep.load``.

    Raises:
        UserError: the architecture cannot be cut, nothing was pruned whole, pruned units have
            weights left, or the folder cannot be written.

    """
    return compact_folder(fitting(folder, Path, "folder"), fitting(out, Path, "out"), overwrite)
