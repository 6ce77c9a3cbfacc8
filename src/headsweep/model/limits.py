"""How much memory a container, or a job of a cluster, leaves this process.

The kernel ends what goes beyond such a limit (cgroup), and the memory of the whole machine says
nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

OWN, MOUNTED = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
SECOND = ("memory.max", "memory.current", "inactive_file")
FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Files of the limit and of what is used; the line of ``memory.stat`` of what can be let go."""


def limit_left(own: Path = OWN, mounted: Path = MOUNTED) -> int | None:
    """Return how many bytes the narrowest limit leaves; None: there is none that can be read.

    Args:
        own: the file that names the groups of this process.
        mounted: where groups are folders.

    """
    left = []
    for folder, (limit, used, droppable) in _groups(own, mounted):
        try:
            most, now = (int((folder / name).read_text()) for name in (limit, used))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            left.append(max(0, most - now + int(stat.get(droppable, 0))))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(left, default=None)


def _groups(own: Path, mounted: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yield the groups of this process and those around them, and what their files are called."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        root, names = (mounted / "memory", FIRST) if kinds else (mounted, SECOND)
        here = root / path.lstrip("/")
        for folder in (here, *here.parents):
            if not folder.is_relative_to(root):
                break
            yield folder, names
