"""What ``purify`` gives: the purified model with its evidence, and its page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headsweep.purification import purified
from headsweep.verbs.reporting import report


@dataclass(repr=False)
class Purified(purified.Purified):
    """A purified model with its evidence, which can write its page.

    What it holds and how it is saved, shown and uploaded says the class that it comes from
    (``headsweep.purification.purified``): the page knows benchmarks, which no defense may.
    """

    def report(self, out: str | Path, *, title: str | None = None, overwrite: bool = False) -> Path:
        """Write the page of this purification to a file; needs ``headsweep[report]``.

        Raises:
            UserError: the file is there already or cannot be written, or the extra is missing.

        """
        report(self, out, title=title, overwrite=overwrite)
        return Path(out)
