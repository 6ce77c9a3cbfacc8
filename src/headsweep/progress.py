"""Progress for people: a bar on a terminal or in a notebook, a line now and then, or nothing.

What is said goes to the standard logger ``headsweep`` too, at INFO; steps that begin and end, with
what they took, at DEBUG. It has no handler of its own: who wants to read it adds one.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.segment import Segment

from headsweep.errors import UserError, shown
from headsweep.foreign import one_line, plain

LOG = logging.getLogger("headsweep")
LOG.addHandler(logging.NullHandler())  # else what warns would go to standard error unasked
Tick = Callable[[int, str], None]
"""Called with how many more are done and a short note (a loss, an accuracy)."""


def plain_console(**more: Any) -> Console:
    """Return a console that prints text as it is: most of it comes from files and other people.

    Rich would take ``[red]`` in a path for markup, and ``:smile:`` in a name for an emoji. What a
    terminal would obey is shown instead (``foreign``).
    """
    return _Plain(markup=False, emoji=False, highlight=False, **more)


def _raise(self: Console) -> None:
    del self
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def raise_broken_pipes() -> None:
    """Let every console of rich raise where its reader has gone: it would exit with 1, a finding.

    typer prints help and mistakes with consoles of its own.
    """
    Console.on_broken_pipe = _raise  # type: ignore[method-assign]


class _Plain(Console):
    on_broken_pipe = _raise

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            # with control codes it is rich's own: where a bar is drawn
            yield segment if segment.control else Segment(plain(segment.text), segment.style)


class Progress(Protocol):
    """Where a long step reports to."""

    def task(self, title: str, total: int) -> AbstractContextManager[Tick]:
        """Open a step of ``total`` parts; call what it yields as they are done."""

    def say(self, line: str) -> None:
        """Show a line that stays."""


class Silent:
    """Reports nothing."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Tick]:
        """Yield a tick that does nothing."""
        del title, total
        yield lambda _done, _note: None

    def say(self, line: str) -> None:
        """Drop the line."""


class Lines(Silent):
    """Passes lines on and shows no bars: for the steps of a task that has its own."""

    def __init__(self, progress: Progress) -> None:
        self.say = progress.say  # type: ignore[method-assign]


class Titled:
    """Passes all of it on, with more behind the titles of steps."""

    def __init__(self, progress: Progress, more: str) -> None:
        self.progress, self.more, self.say = progress, more, progress.say

    def task(self, title: str, total: int) -> AbstractContextManager[Tick]:
        """Open the step."""
        return self.progress.task(f"{title} {self.more}", total)


class Logged:
    """Passes all of it on, and tells the standard logger ``headsweep``."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def say(self, line: str) -> None:
        """Pass the line on, and log it."""
        self.progress.say(line)
        LOG.info("%s", one_line(line.strip()))

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Tick]:
        """Open the step, and log when it begins and what it took."""
        begun, count, last = time.monotonic(), 0, ""
        LOG.debug("%s: begun, %d in all", one_line(title), total)
        with self.progress.task(title, total) as inner:

            def tick(done: int, note: str) -> None:
                nonlocal count, last
                count, last = count + done, note
                inner(done, note)

            try:
                yield tick
            finally:
                took = duration(time.monotonic() - begun)
                told = one_line(f"{title}: {count} of {total} {last}".strip())
                LOG.debug("%s: %s", told, took)


class Terminal:
    """Bars on a terminal or in a notebook, else a line at least every 20 seconds.

    A notebook draws bars where ipywidgets is installed; without, rich would warn and show none.
    """

    every_seconds = 20.0
    worth_seconds = 2.0  # what took less is not told

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or plain_console(stderr=True)

    def say(self, line: str) -> None:
        """Print the line."""
        self.console.print(line, soft_wrap=True)

    def task(self, title: str, total: int) -> AbstractContextManager[Tick]:
        """Open a bar, or lines where the output is not a terminal."""
        return self._bar(title, total) if self.draws else self._lines(title, total)

    @property
    def draws(self) -> bool:
        """Whether bars can be drawn where it prints."""
        if self.console.is_jupyter:
            return find_spec("ipywidgets") is not None
        return self.console.is_terminal

    @contextmanager
    def _bar(self, title: str, total: int) -> Iterator[Tick]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Bars(*columns, console=self.console) as bars:
            task = bars.add_task(title, total=total, note="")
            yield lambda done, note: bars.update(task, advance=done, note=note)

    @contextmanager
    def _lines(self, title: str, total: int) -> Iterator[Tick]:
        begun = said = time.monotonic()
        count = 0

        def tick(done: int, note: str) -> None:
            nonlocal count, said
            count += done
            now = time.monotonic()
            if now - said >= self.every_seconds and 0 < count < total:
                left = (now - begun) * (total - count) / count
                self.say(f"  {title}: {count}/{total} {note} (about {duration(left)} left)")
                said = now

        yield tick
        took = time.monotonic() - begun
        if took >= self.worth_seconds:
            self.say(f"  {title}: done in {duration(took)}")


def reporting(wanted: bool | Progress | None) -> Progress:
    """Return where to report to: what is given, the terminal, or nowhere; and the logger."""
    if isinstance(wanted, Logged):  # it has been asked before
        return wanted
    if isinstance(wanted, bool) or wanted is None:
        return Logged(Terminal() if wanted else Silent())
    if not (hasattr(wanted, "task") and hasattr(wanted, "say")):
        raise UserError(
            f"progress cannot be {shown(wanted)}", "it takes True, False, or an object to tell"
        )
    return Logged(wanted)


def duration(seconds: float) -> str:
    """Return a time as people write it: ``0.4 s``, ``37 s``, ``2 min 05 s``, ``1 h 10 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
