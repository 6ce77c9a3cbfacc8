"""Chats written by a template of others, in a process of its own: with little time and memory.

Run as a script with JSON on standard input: ``template``, ``special`` (tokens by name), ``chats``
and ``answered``, chats with their answers. transformers renders them in its sandbox. It prints
JSON: ``texts``, up to where an answer begins, and ``answered``, to their ends (none where the
template does not write them); or an ``error``.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import datetime, tzinfo
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

SECONDS, A_CHAT, BYTES = 20, 0.02, 2 << 30  # beside what importing transformers takes
STARTING = 600 if find_spec("resource") else 120  # seconds: a busy machine imports slowly


class OneDay(datetime):
    """A clock that stands, so that what a template writes is the same on every day."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        """Return the day that Llama 3's template writes where it is told none."""
        return cls(2024, 7, 26, tzinfo=tz)


def patience(chats: int) -> float:
    """Return how many seconds the caller waits for so many chats."""
    return STARTING + 2 * (SECONDS + A_CHAT * chats)


def limited(chats: int) -> None:
    """Take little memory and little time from here on, where the system has such limits."""
    try:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime + SECONDS + A_CHAT * chats) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room = pages * resource.getpagesize() + BYTES
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
    except (ImportError, OSError, ValueError):  # no such limits: the caller's patience is one
        return


def main() -> None:
    """Render the chats that standard input holds."""
    form = json.load(sys.stdin)
    from transformers.utils import chat_template_utils

    render_jinja_template = chat_template_utils.render_jinja_template
    chat_template_utils.datetime = OneDay  # type: ignore[attr-defined] # of strftime_now
    limited(int(sys.argv[1]))

    def written(chats: Any, begun: bool) -> Any:
        return render_jinja_template(
            conversations=chats,
            chat_template=form["template"],
            add_generation_prompt=begun,
            **form["special"],
        )[0]

    try:
        made = {"texts": written(form["chats"], begun=True), "answered": []}
    except Exception as error:  # whatever the template raises
        made = {"error": f"{type(error).__name__}: {error}"[:1000]}
    else:
        with suppress(Exception):
            made["answered"] = written(form["answered"], begun=False)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
