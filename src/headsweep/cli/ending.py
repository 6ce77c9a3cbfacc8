"""How a command ends where nobody foresaw it: in a line, whatever was raised or sent to it.

What a user can act on is a ``UserError``. Here is what is left: a full disk, no memory, a library
that panics, our own mistakes, and the signals that ask a process to end.
"""

from __future__ import annotations

import errno
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from headsweep.errors import UserError, shortened
from headsweep.foreign import one_line

PACKAGE = Path(__file__).parents[1]
SIGNALS = ("SIGTERM", "SIGHUP")  # Windows lacks the second


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let the signals that ask a process to end do what Ctrl-C does; put back what they did."""
    kinds = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    ours = threading.current_thread() is threading.main_thread()
    before = {kind: signal.getsignal(kind) for kind in kinds if ours}
    mine = [kind for kind, what in before.items() if what is signal.SIG_DFL]  # nohup stays nohup
    for kind in mine:
        signal.signal(kind, _interrupt)
    try:
        yield
    finally:
        for kind in mine:
            signal.signal(kind, before[kind])


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise KeyboardInterrupt


def unforeseen(error: BaseException) -> UserError:
    """Return in a line what ended a command, and what to do about it."""
    names = {kind.__name__ for kind in type(error).__mro__}
    said = shortened(one_line(str(error)), 300)
    if isinstance(error, ImportError):
        return UserError(f"a library cannot be loaded: {said}", "install headsweep again")
    if isinstance(error, MemoryError) or ("torch" in sys.modules and _of_memory(error)):
        return UserError(
            "there is not enough memory",
            "smaller batches (--compute batch_size=8), or another machine",
        )
    if isinstance(error, RecursionError):
        return UserError(f"something is nested too deeply{_where(error)}", _REPORT)
    if isinstance(error, UnicodeError):
        return UserError(f"text that is not valid Unicode: {said}{_where(error)}", _REPORT)
    if isinstance(error, OSError):
        return _of_system(error, said)
    if "SafetensorError" in names:
        return UserError(f"a broken safetensors file: {said}", "get the model again")
    if "PanicException" in names:
        return UserError(f"a library gave up: {said}{_where(error)}", _REPORT)
    return UserError(f"unforeseen: {type(error).__name__}: {said}{_where(error)}", _REPORT)


def _of_memory(error: BaseException) -> bool:
    from headsweep.task.fitting import out_of_memory  # which loads torch, and that may be broken

    return out_of_memory(error)


_REPORT = (
    "run it again with --debug for the whole trace, and report both to who maintains headsweep"
)


def _of_system(error: OSError, said: str) -> UserError:
    file = f"{error.filename}: " if error.filename else ""
    why = error.strerror or said
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "make room, or choose another --out" + ("" if file else ", or let it print elsewhere")
        return UserError(f"{file}the disk is full ({why})", fix)
    if isinstance(error, PermissionError):
        return UserError(f"{file}not allowed ({why})", "look at who may read and write it")
    return UserError(f"{file}{why}", "" if file else _REPORT)


def _where(error: BaseException) -> str:
    """Return which of our lines was at work."""
    steps = traceback.extract_tb(error.__traceback__)
    own = [step for step in steps if Path(step.filename).is_relative_to(PACKAGE)]
    if not own:
        return ""
    path = Path(own[-1].filename).relative_to(PACKAGE.parent).as_posix()
    return f" ({path}, line {own[-1].lineno})"
