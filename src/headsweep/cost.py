"""What a run costs: wall time by part, and memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def reset_peak() -> None:
    """Forget the most memory held so far, where the system lets a process do so (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mib() -> float | None:
    """Return the most memory this process has held, in MiB; None where it cannot be told.

    Since ``reset_peak``, where that could forget.
    On Linux from VmHWM: ``ru_maxrss`` of a child begins at what its parent held when it forked.
    """
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


class Clock:
    """Adds up wall time by name."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun

    def report(self) -> dict[str, float]:
        """Return the sums and the time since the clock was made."""
        return {n: round(s, 2) for n, s in self.seconds.items()} | {
            "all": round(time.monotonic() - self.begun, 2)
        }
