"""Processes that start sooner: no garbage is looked for while the modules are read.

Reading torch and transformers makes millions of objects, of which hardly one is ever let go. Python
looks through them for garbage again and again, and once more at the end: a quarter of what a short
command takes. Only processes of our own do so, never a program that imports the package.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable
from importlib import import_module
from typing import Any

_SELDOM = (1_000_000, 50, 50)
_before: list[tuple[int, int, int]] = []


def starting() -> None:
    """Look for garbage hardly ever until ``started``, and not at all when the process ends."""
    if not _before:
        _before.append(gc.get_threshold())
        gc.set_threshold(*_SELDOM)
        atexit.register(gc.freeze)


def started() -> None:
    """Look for garbage as before ``starting``, in what is made from now on; else do nothing."""
    if _before:
        gc.set_threshold(*_before.pop())
        gc.freeze()


def begun(module: str, name: str, *given: Any) -> None:
    """Call a function of a module that is read here: what a new process begins with."""
    starting()
    call: Callable[..., None] = getattr(import_module(module), name)
    call(*given)
