"""The application that every command hangs on, and its exit codes."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from headsweep.cli.ending import ended_by_signals, unforeseen
from headsweep.cli.gone import refuse_gone
from headsweep.errors import Outcome, UserError
from headsweep.foreign import one_line
from headsweep.progress import LOG, plain_console, raise_broken_pipes
from headsweep.quick import starting

INTERRUPTED, NOBODY_READS = 130, 141  # the second as of a process that SIGPIPE ends
DEBUG, LOG_FILE, VERBOSE = "--debug", "--log-file", ("--verbose", "-v")

app = typer.Typer(
    name="headsweep",
    help="Take a backdoor out of a Hugging Face text classifier or language model: prune attention "
    "heads and fine-tune, without the trigger and without a clean copy of the model.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> None:
    """Print the version and end, where it is what was wanted."""
    if wanted:
        from headsweep import __version__

        print(f"headsweep {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG, help="Show the trace of an error (or HEADSWEEP_DEBUG=1).")
    ] = False,
    log_file: Annotated[
        Path | None,
        typer.Option(help="Append a log with times to this file."),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option(*VERBOSE, help="Log to standard error, with times."),
    ] = False,
) -> None:
    del version, debug  # it has been said; main has taken it out
    if log_file is not None:
        _log_to(_log_in(log_file))
    if verbose:
        _log_to(logging.StreamHandler(sys.stderr))


def _log_in(path: Path) -> logging.Handler:
    """Return what writes a log into a file; raises UserError."""
    from headsweep.export.folders import check_apart

    check_apart(path)
    try:
        return logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(
            f"--log-file {path}: cannot be written: {error.strerror}", "choose another file"
        ) from error


def _log_to(handler: logging.Handler) -> None:
    """Let the logger write to it until the command ends."""
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.set_name(LOG_FILE)
    LOG.addHandler(handler)
    LOG.setLevel(logging.DEBUG)


def _close_log() -> None:
    for handler in LOG.handlers[:]:
        if handler.get_name() == LOG_FILE:
            LOG.removeHandler(handler)
            LOG.setLevel(logging.NOTSET)
            handler.close()


def _refuse_gone(app: Any, words: list[str]) -> None:
    """Say what replaced an option that is gone; raises UserError."""
    command = app.commands.get(words[0]) if words else None
    if command is not None:
        known = {option for parameter in command.params for option in parameter.opts}
        refuse_gone(words[1:], known)


def _apart(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the options of every command, wherever they were typed, and the other words."""
    front: list[str] = []
    rest: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--":
            rest += [word, *left]
        elif word == LOG_FILE:
            file = next(left, None)
            if file is None:
                return [word], []  # it is said to lack its file
            front += [word, file]
        elif word in VERBOSE or word.startswith(f"{LOG_FILE}="):
            front.append(word)
        else:
            rest.append(word)
    return front, rest


class Interrupted(Exception):  # noqa: N818 - not an error of ours
    """Ctrl-C, with what is kept."""


# How torchrun and accelerate tell a process which of several it is.
RANK, OF_MANY = "RANK", ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")


def alone() -> bool:
    """Tell whether this process is to do the work, of those that a launcher started.

    The first does all of it and forgets the others, which end at once: else accelerate would wait
    for them to join it.
    """
    first = os.environ.get(RANK, "0") == "0"
    for name in OF_MANY:
        os.environ.pop(name, None)
    return first


def _check_standing() -> None:
    """Refuse to run in a folder that is gone: torch itself cannot be loaded there."""
    try:
        Path.cwd()
    except OSError as error:
        raise UserError(
            f"the folder that this runs in cannot be reached: {error.strerror}",
            "change to one that is there (cd)",
        ) from error


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; map every outcome to its exit code."""
    if not alone():
        sys.exit(0)
    if arguments is None:
        starting()
        raise_broken_pipes()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's has no such thing
            stream.reconfigure(errors="backslashreplace")
    errors = plain_console(stderr=True)
    given = list(sys.argv[1:] if arguments is None else arguments)
    everywhere, words = _apart([word for word in given if word != DEBUG])
    debug = DEBUG in given or os.environ.get("HEADSWEEP_DEBUG", "0") not in ("", "0")
    try:
        command: Any = typer.main.get_command(app)
        if words and not {"--help", "-h", "--version"} & {*given}:
            _check_standing()
        _refuse_gone(command, words)
        with ended_by_signals():
            command.main([*everywhere, *words], prog_name="headsweep")
        code = 0
    except (UserError, Outcome) as error:
        _trace(errors, error, debug)
        _say(errors, str(error))
        code = 2 if isinstance(error, UserError) else 1
    except SystemExit as stop:
        if type(sys.stdout).__name__ == "PacifyFlushWrapper":  # typer's mark: the reader has gone
            sys.exit(NOBODY_READS)
        if stop.code == INTERRUPTED:
            _say(errors, "interrupted")
        raise
    except BrokenPipeError:  # of standard error
        code = NOBODY_READS
    except (KeyboardInterrupt, Interrupted) as error:
        _say(errors, ": ".join(filter(None, ("interrupted", str(error)))))
        code = INTERRUPTED
    except BaseException as error:  # a panic of a library is no Exception
        _trace(errors, error, debug)
        _say(errors, str(unforeseen(error)))
        code = 2
    finally:
        _close_log()
    sys.exit(code)


def _say(errors: Any, line: str) -> None:
    """Say how it ended, on standard error and in the log."""
    with suppress(BrokenPipeError):
        errors.print(f"headsweep: {line}", soft_wrap=True)
    LOG.error("%s", one_line(line))


def _trace(errors: Any, error: BaseException, debug: bool) -> None:
    if debug:
        errors.print("".join(traceback.format_exception(error)), soft_wrap=True)
