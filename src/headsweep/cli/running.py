"""How a purification is run: what it keeps when it is interrupted, and what it says in the end."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from headsweep.cli.app import Interrupted
from headsweep.cli.options import (
    out_console,
    print_json,
    progress_of,
)
from headsweep.drafts import MANIFEST
from headsweep.errors import UserError
from headsweep.verbs.arguments import check_file


@dataclasses.dataclass(frozen=True)
class Job:
    """What a command was asked to do, and how it is to say so.

    Attributes:
        model, sources, out: what is read, and the folder that is written.
        overwrite: replace that folder.
        as_json, quiet: how to say what is done.
        probed: run the probes before and after; None: where they are quick.
        report: write a page to this file.
        task, adapter: what was said of the model, which the next commands must be told, too.

    """

    model: str
    sources: Any
    out: Path
    overwrite: bool
    as_json: bool
    quiet: bool
    probed: bool | None = False
    report: Path | None = None
    task: str | None = None
    adapter: Path | None = None

    @property
    def progress(self) -> Any:
        """Where to report to."""
        return progress_of(self.quiet or self.as_json)

    @property
    def unfinished(self) -> Path:
        """Where an interrupted run keeps what it has finished."""
        return _unfinished(self.out)


def check_files(
    out: Path, overwrite: bool, reads: Iterable[object], report: Path | None = None
) -> None:
    """Check, before any work, that what is asked for can be written; raises UserError.

    ``reads``: what the run reads, which must not be written over.
    """
    from headsweep.export.folders import check_free

    reads = tuple(reads)
    check_free(out, overwrite, reads)
    if report is not None:
        _check_report(report, out, overwrite, reads)
    unfinished = _unfinished(out)
    if unfinished.is_dir() and _is_later(out / MANIFEST, unfinished):  # its run died at its end
        from headsweep.purification.unfinished import discard

        discard(unfinished)


def _unfinished(out: Path) -> Path:
    out = out.absolute()
    return out.with_name(f"{out.name}.unfinished")


def _is_later(result: Path, unfinished: Path) -> bool:
    """Tell whether a result was written after everything in a folder."""
    with suppress(OSError):
        when = result.stat().st_mtime_ns
        files = [path for path in unfinished.rglob("*") if path.is_file()]
        return all(path.stat().st_mtime_ns <= when for path in files)
    return False


def _check_report(path: Path, out: Path, overwrite: bool, reads: Iterable[object] = ()) -> None:
    from headsweep.reports import charts

    charts.plotly()
    if path.absolute() == out.absolute():
        raise UserError(f"--report {path}: that is --out, a folder", "name a file")
    check_file(path, overwrite, reads, out)


def run(job: Job, purify: Callable[..., Any], method: Any, plan: Any) -> None:
    """Purify, save, and say what came of it; exit with 1 where it did not verify."""
    from headsweep.export.folders import check_free

    check_free(job.out, job.overwrite, (method.base,))
    if job.report is not None:
        _check_report(job.report, job.out, job.overwrite, (method.base,))
    done = _saved(job, purify, method, plan)
    try:
        _tell(done, job)
    except KeyboardInterrupt:
        raise Interrupted(_left(job)) from None
    except UserError as error:  # of the page
        raise UserError(error.what, _left(job)) from error


def _left(job: Job) -> str:
    """Return what there is once the result is saved, and how to come to the rest."""
    from headsweep.cli.show import typed

    page = shlex.join(["headsweep", "report", typed(job.out), "--out", "FILE"])
    return f"{job.out} was written" + (f"; its page: {page}" if job.report is not None else "")


def _tell(done: Any, job: Job) -> None:
    """Say what came of it, as figures or in words, and on a page where one is asked for."""
    if job.as_json:
        print_json(done.manifest)
    else:
        _show(done, job.out)
    if job.report is not None:
        from headsweep.reports import page

        text = page.of_purification(done.manifest)
        _check_report(job.report, job.out, job.overwrite)
        page.write(job.report, text)
        if not job.as_json:
            out_console.print(f"report: {job.report}", soft_wrap=True)
    _end(done, job)


def _saved(job: Job, purify: Callable[..., Any], method: Any, plan: Any) -> Any:
    """Return what was made, saved."""
    from headsweep.purification.unfinished import InterruptedWithSteps, discard

    around = None
    if job.probed is not False:
        from headsweep.judge.around import Around

        around = Around(plan.seed, plan.runtime, job.progress, asked=bool(job.probed))
    done, goes_on = None, f"in {job.unfinished}: the same command goes on"
    try:
        done = purify(job.model, job.sources, method=method, plan=plan, progress=job.progress,
                      keep=job.unfinished, observe=around)  # fmt: skip
        if around is not None:
            done.manifest["probe"] = around.to_json()
        done.save(job.out, job.overwrite)
    except InterruptedWithSteps:
        raise Interrupted(f"what is finished is kept {goes_on}") from None
    except KeyboardInterrupt:
        if done is None:
            raise Interrupted("nothing was written") from None
        if _is_in_place(done, job.out):  # what was there before was going
            discard(job.unfinished)
            raise Interrupted(_left(job)) from None
        raise Interrupted(f"what is finished is kept {goes_on}") from None
    except UserError as error:
        if done is None:
            raise  # another run would come to the same
        told = [error.fix] if error.fix else []
        if any(map(Path.is_file, job.unfinished.rglob("*"))):  # of a full disk perhaps not all
            told.append(f"what could be kept is {goes_on}")
        raise UserError(error.what, "; ".join(told)) from error
    discard(job.unfinished)
    return done


def _is_in_place(done: Any, out: Path) -> bool:
    """Tell whether a folder holds what was made, whole."""
    with suppress(OSError, ValueError):
        form = json.loads((out / MANIFEST).read_text("utf-8"))
        noted = done.manifest.get("tensors_sha256")
        return noted is not None and bool(form.get("tensors_sha256") == noted)
    return False


def _show(done: Any, out: Path) -> None:
    from headsweep.cli import show

    show.purified(out_console, done.manifest)
    show.checks(out_console, done.checks)
    show.by_heart(out_console, done.manifest)
    show.probes(out_console, done.manifest)
    out_console.print(f"\nwritten: {out}", soft_wrap=True)
    out_console.print("Pruning can fail: this is no proof that the model is clean.", style="dim")


def _end(done: Any, job: Job) -> None:
    """Say in the last lines what came of it and what to do next; exit with 1 if it did not hold."""
    from headsweep.cli import show
    from headsweep.reports.verdict import verdict

    if not job.as_json:
        found = verdict(done.manifest, str(job.out))
        out_console.print(found.told, style=show.STYLES[found.kind], soft_wrap=True)
        if found.mend:
            out_console.print(f"next: {found.mend}", soft_wrap=True)
        else:
            show.next_steps(out_console, done.manifest, job)
    if not done.verified:
        raise typer.Exit(1)
