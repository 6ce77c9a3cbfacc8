"""Turn pip's report of what it would install into requirements with hashes: ``make lock``.

The report is read from standard input. Left out are this package, and torch: builds of one version
differ by index (for the CPU, for a GPU), so no one hash holds.
"""

from __future__ import annotations

import json
import sys
from typing import Any

LEFT_OUT = ("headsweep", "torch")
HEAD = """\
# Made by `make lock`, used by `LOCKED=1 make check`: every file that CI installs, by its hash, for
# CPython 3.11 on Linux, x86-64. Not in it: torch, whose builds differ by index
# (constraints.txt has its version).
"""


def locked(report: dict[str, Any]) -> str:
    """Return the requirements; fails where a file has no hash."""
    lines = {}
    for one in report["install"]:
        name, version = one["metadata"]["name"].lower(), one["metadata"]["version"]
        if name not in LEFT_OUT:
            try:
                hashes = one["download_info"]["archive_info"]["hashes"]
            except KeyError:
                raise SystemExit(f"{name} {version}: comes from no file with a hash") from None
            lines[name] = f"{name}=={version} --hash=sha256:{hashes['sha256']}"
    return HEAD + "\n".join(lines[name] for name in sorted(lines)) + "\n"


if __name__ == "__main__":
    sys.stdout.write(locked(json.load(sys.stdin)))
