"""Processes that end with the one that started them, however it ends.

A killed parent closes nothing and tells nobody: what it started would compute on for hours.
"""

from __future__ import annotations

import os
import signal
import time
from threading import Thread

EVERY_SECONDS = 1.0


def end_with(parent: int) -> None:
    """Let this process be ended, as by SIGTERM, soon after its parent is gone."""
    Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY_SECONDS)
    signal.raise_signal(signal.SIGTERM)
    time.sleep(30)  # for drafts to be taken away
    os._exit(1)
