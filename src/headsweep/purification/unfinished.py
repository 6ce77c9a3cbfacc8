"""What a run has finished, kept so that the same run goes on after its last step.

Scores of heads, the choice of heads and healings lie in a folder named by a hash of all that
decides them: the suspect, the data, the method, the seed, how it is computed, and the versions. So
another run never takes them, and going on gives the bytes that one run without an end would have.
The folders of two runs stay at most, this one's and the latest other's. Whoever names the place
removes it when the result is written.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headsweep.drafts import if_it_can, is_at_work, write_bytes
from headsweep.errors import NothingPruned, ShortOfMemory, UserError
from headsweep.export.provenance import environment
from headsweep.measure.accuracy import Measured
from headsweep.model.base import weights_of
from headsweep.model.content import content_hash
from headsweep.model.mask import HeadMask
from headsweep.progress import Progress
from headsweep.prune.choice import Choice, Step
from headsweep.prune.strategies import Strategy
from headsweep.prune.view import DefenderView
from headsweep.purification.material import Material
from headsweep.purification.method import Method
from headsweep.purification.plan import Plan
from headsweep.settings import describe
from headsweep.task.training import DivergedError

MASK, CHOICE = "head-mask.json", "choice.json"
SCORES, TUNED = "scores", "fine-tuned.safetensors"
NAMED = 16  # digits of the name of a run's folder
RUN = re.compile(f"[0-9a-f]{{{NAMED}}}")


class InterruptedWithSteps(KeyboardInterrupt):
    """Ctrl-C, or a signal, after which the same run can go on from what is kept of it."""


@contextmanager
def steps_kept(
    place: Path | None,
    material: Material,
    method: Method,
    plan: Plan,
    progress: Progress,
    *more: Any,
) -> Iterator[Path | None]:
    """Yield the folder for what a run has finished; None: nothing is kept.

    It is removed where the run comes to nothing that going on could mend.

    Args:
        place: where such folders lie, for one run at a time.
        material: the suspect as it was opened, and its data.
        method: all that is done to it.
        plan: how it is run.
        progress: is told where there is something to go on from.
        more: what else decides it.

    Raises:
        InterruptedWithSteps: in the place of KeyboardInterrupt, where something of it is kept.

    """
    if place is None:
        yield None
        return
    folder = place / _key(material, method, plan, more)
    _clear(place, folder)
    steps = _told(folder)
    if steps:
        progress.say(f"note: this goes on after what an interrupted run has finished: {steps}")
    try:
        yield folder
    except ShortOfMemory:
        raise
    except KeyboardInterrupt as stopped:
        if _told(folder):
            raise InterruptedWithSteps from stopped
        raise
    except (UserError, NothingPruned) as error:
        mask = folder / MASK
        if isinstance(error, DivergedError) and mask.exists():
            kept = (
                f"{error.fix}; the heads that were found are kept: --mask {shlex.quote(str(mask))}"
            )
            raise DivergedError(error.what, kept) from error
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another run's is there
            place.rmdir()
        raise


def runs_in(place: Path) -> list[Path]:
    """Return the folders of runs; whatever else lies there is somebody's."""
    return [path for path in place.glob("*") if RUN.fullmatch(path.name) and path.is_dir()]


def discard(place: Path) -> None:
    """Remove what runs have kept, and the place where nothing else is in it."""
    for folder in runs_in(place):
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # somebody's is there
        place.rmdir()


def _key(material: Material, method: Method, plan: Plan, more: tuple[Any, ...]) -> str:
    """Return a hash of all that decides a run."""
    encoded, parts = material.encoded, material.parts.named()
    told = [
        environment("peft"),
        content_hash(material.suspect.model),
        [str(material.suspect.precision), str(material.suspect.model.device)],
        material.suspect.labels.names,
        {name: [part.sha256, encoded[name].sha256] for name, part in parts.items()},
        describe(method.pruning),
        describe(method.healing),
        method.units,
        method.bound,
        plan.seed,
        asdict(plan.runtime),
        plan.adapter,
        plan.base_model,
        None if method.base is None else weights_of(method.base),
        None if plan.prober is None else plan.prober.described(),
        more,
    ]
    text = json.dumps(told, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:NAMED]


def _clear(place: Path, folder: Path) -> None:
    """Remove drafts that a run left when it died, and other runs' folders but the latest."""
    for draft in folder.rglob("*.draft"):
        if not is_at_work(draft):
            draft.unlink(missing_ok=True)
    others = [path for path in runs_in(place) if path != folder]
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
        shutil.rmtree(path, ignore_errors=True)


def _told(folder: Path) -> str:
    """Return in words what is there to go on from."""
    healed = len([*folder.glob("members/*.safetensors"), *folder.glob("healed-*.safetensors")])
    words = {
        "the fine-tuning": (folder / TUNED).exists(),
        "the scores": any((folder / SCORES).glob("*")),
        "the choice of heads": (folder / CHOICE).exists(),
        f"{healed} healing{'s' if healed > 1 else ''}": healed > 0,
    }
    return ", ".join(word for word, there in words.items() if there)


def chosen(folder: Path | None, pruning: Strategy, view: DefenderView) -> Choice:
    """Return which heads go: chosen now, or by the run that this one goes on after."""
    if folder is None or pruning.needs.searches == 0:
        return pruning.choose(view)
    file = folder / CHOICE
    with suppress(OSError, ValueError):
        return _of_json(json.loads(file.read_text(encoding="utf-8")), view)
    choice = pruning.choose(view)
    form = json.dumps(_to_json(choice, view)).encode()
    if_it_can(partial(write_bytes, file, form), view.progress.say)
    return choice


def _to_json(choice: Choice, view: DefenderView) -> dict[str, Any]:
    meter = view.meter
    return {
        "mask": choice.mask.to_json(),
        "scores": None if choice.scores is None else choice.scores.tolist(),
        "steps": [asdict(step) for step in choice.steps],
        "record": choice.record,
        "bounded": choice.bounded,
        "measured": [meter.examples_run, meter.masks_run, meter.bf16],
    }


def _of_json(form: dict[str, Any], view: DefenderView) -> Choice:
    """Return the choice; the view's meter tells what was measured for it."""
    meter = view.meter
    meter.examples_run, meter.masks_run, meter.bf16 = form["measured"]
    scores: Tensor | None = None if form["scores"] is None else torch.tensor(form["scores"])
    steps = tuple(
        Step(**step | {"units": tuple(step["units"]), "measured": Measured(**step["measured"])})
        for step in form["steps"]
    )
    mask = HeadMask.from_json(form["mask"])
    return Choice(mask, scores, steps, form["record"], form["bounded"])
