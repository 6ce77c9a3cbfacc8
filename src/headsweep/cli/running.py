"""How a purification is run: what it keeps when it is interrupted, and what it says in the end."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from headsweep.cli.app import Interrupted
from headsweep.cli.options import (
    out_console,
    print_json,
    progress_of,
)
from headsweep.errors import UserError
from headsweep.verbs.arguments import check_file


@dataclasses.dataclass(frozen=True)
class Job:
    """What a command was asked to do, and how it is to say so.

    Attributes:
        model, sources, out: what is read, and the folder that is written.
        overwrite: replace that folder.
        as_json, quiet: how to say what is done.
        probed: run the probe battery before and after.
        report: write a page to this file.

    """

    model: str
    sources: Any
    out: Path
    overwrite: bool
    as_json: bool
    quiet: bool
    probed: bool = False
    report: Path | None = None

    @property
    def progress(self) -> Any:
        """Where to report to."""
        return progress_of(self.quiet or self.as_json)

    @property
    def mask_file(self) -> Path:
        """Where the mask of an interrupted run is kept."""
        out = self.out.absolute()
        return out.with_name(f"{out.name}.head-mask.json")

    @property
    def healings(self) -> Path:
        """Where the finished healings of an interrupted run are kept."""
        out = self.out.absolute()
        return out.with_name(f"{out.name}.healings")

    def check_files(self, mask: Path | None) -> None:
        """Check, before any work, that the other files can be written; raises UserError."""
        if self.report is not None:
            _check_report(self.report, self.out, self.overwrite)
        kept = self.mask_file
        if kept.exists() and (mask is None or kept.absolute() != mask.absolute()):
            raise UserError(
                f"{kept}: is there already, it may be the mask of an interrupted run",
                f"go on from it with --mask {kept}, or remove it",
            )


def _check_report(path: Path, out: Path, overwrite: bool) -> None:
    from headsweep.reports import charts

    charts.plotly()
    if path.absolute() == out.absolute():
        raise UserError(f"--report {path}: that is --out, a folder", "name a file")
    check_file(path, overwrite)


def run(
    job: Job,
    purify: Callable[..., Any],
    method: Any,
    plan: Any,
    go_on: Callable[[Path], str] | None = None,
) -> None:
    """Purify, save, and say what came of it; exit with 1 where it did not verify.

    ``go_on`` says how to go on from the mask that an interrupted run keeps; None: none is kept.
    """
    done, both = _saved(job, purify, method, plan, go_on)
    if job.as_json:
        print_json(done.manifest)
    else:
        _show(done, both, job.out)
    if job.report is not None:
        from headsweep.reports import page

        page.write(job.report, page.of_purification(done.manifest))
        if not job.as_json:
            out_console.print(f"report: {job.report}", soft_wrap=True)
    _end(done, job)


def _saved(
    job: Job,
    purify: Callable[..., Any],
    method: Any,
    plan: Any,
    go_on: Callable[[Path], str] | None,
) -> tuple[Any, dict[str, Any]]:
    """Return what was made, saved, and what the probes found before and after."""
    from headsweep.cli.probe import before_and_after

    kept = job.mask_file if go_on is not None and method.pruning.needs.pruning else None
    both: dict[str, Any] = {}
    saving = False
    try:
        done = purify(job.model, job.sources, method=method, plan=plan, progress=job.progress,
                      keep_mask=kept, keep_healings=job.healings)  # fmt: skip
        if job.probed:
            both = before_and_after(job.model, done, plan, job.progress)
        saving = True
        done.save(job.out, job.overwrite)
    except KeyboardInterrupt:
        if go_on is not None and kept is not None and _is_kept(kept):
            raise Interrupted(f"the head mask is kept: {go_on(kept)}") from None
        if job.healings.exists():
            raise Interrupted(
                f"finished healings are kept in {job.healings}: the same command goes on after them"
            ) from None
        raise Interrupted("nothing was written") from None
    except UserError as error:
        if saving and go_on is not None and kept is not None and _is_kept(kept):
            told = f"the head mask is kept: {go_on(kept)}"  # a full disk takes no hours of search
            raise UserError(error.what, f"{error.fix}; {told}" if error.fix else told) from error
        _drop(kept, method)
        raise
    except BaseException:
        if not saving:
            _drop(kept, method)
        raise
    if kept is not None and _is_kept(kept):
        kept.unlink()
    shutil.rmtree(job.healings, ignore_errors=True)
    return done, both


def _drop(kept: Path | None, method: Any) -> None:
    """Remove the mask of a run that came to nothing, unless it was given one."""
    if kept is not None and method.pruning.name != "given mask":
        kept.unlink(missing_ok=True)


def _is_kept(path: Path) -> bool:
    """Tell whether a mask file is one that an interrupted run left behind."""
    from headsweep.purification.interrupted import KEPT

    return path.exists() and f'"{KEPT}"' in path.read_text(encoding="utf-8")


def same_with(kept: Path) -> str:
    """Return how to go on from a mask that was kept."""
    return f"run the same command with --mask {kept} to go on"


def _show(done: Any, both: dict[str, Any], out: Path) -> None:
    from headsweep.cli import show
    from headsweep.cli.probe import print_both

    show.purified(out_console, done.manifest)
    show.checks(out_console, done.checks)
    if both:
        print_both(both)
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
            show.next_steps(out_console, done.manifest, job.out, job.sources)
    if not done.verified:
        raise typer.Exit(1)
