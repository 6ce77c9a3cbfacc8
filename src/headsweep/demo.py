"""The demo: plant a backdoor in a small real model, purify it, print before and after.

The model is all-MiniLM-L6-v2 and the texts are film reviews, both from the package index
(``headsweep[demo]``). An attacker poisons a training set with a rule-based syntactic trigger
and fine-tunes; a victim puts a fresh head on the result and fine-tunes on clean data; a twin,
never poisoned, gives the floor. Then the purifier, who knows nothing of this, gets the victim's
folder and other clean reviews.

Budget: about 22,000 passes of a short sentence in training, and 400 validation sentences.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headsweep.attacks.dirty_label import DirtyLabel
from headsweep.attacks.victim import Attacked, Order, attack
from headsweep.bench.packaged import LABELS, Texts, film_reviews, model_folder
from headsweep.cost import Clock
from headsweep.drafts import write_json
from headsweep.export.folders import drafted
from headsweep.export.provenance import environment
from headsweep.judge.evaluate import Answers, Evaluation, Exam, Triggered, answer, judge
from headsweep.model.loading import Reading, Suspect, load_suspect
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress
from headsweep.purification.material import Sources
from headsweep.purification.pipeline import purify
from headsweep.purification.plan import Plan
from headsweep.reports.picture import picture
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, train
from headsweep.texts.split import Split
from headsweep.triggers import ByRule
from headsweep.triggers.opening import Opening
from headsweep.triggers.seen import triggered

MODEL, TARGET = "all-MiniLM-L6-v2", 1
SIZES = (1500, 1200, 1200, 400, 600)  # for attacker, victim, purifier, validation, test
LONGEST = 130  # characters of a review: with longer ones too all would take a third longer
ATTACK, VICTIM, TWIN = Schedule(2, 1e-4), Schedule(1, 5e-5), Schedule(2, 1e-4)


@dataclass(frozen=True)
class Report:
    """What the demo found."""

    suspect: Evaluation
    purified: Evaluation
    twin: Evaluation
    manifest: dict[str, Any]
    survived: bool
    seconds: dict[str, float]
    kept: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"format": "headsweep.demo/1"} | asdict(self) | {"environment": environment()}


def run(
    runtime: Runtime, seed: int, progress: Progress, out: Path | None, overwrite: bool
) -> Report:
    """Run the demo.

    Raises:
        UserError: the packages are missing or not the ones expected, or ``out`` exists.
        NothingPruned: no head could go within the bound.

    """
    clock = Clock()
    base, texts = model_folder(), film_reviews(seed, SIZES, LONGEST)
    progress.say(
        f"{MODEL} and {sum(map(len, vars(texts).values()))} film reviews; "
        "takes about eight minutes on two cores"
    )
    with _folder(out, overwrite) as folder:
        with clock("attack"):
            victim = _victim(base, texts, runtime, seed, progress)
        victim.save(folder / "suspect")
        with clock("twin"):
            twin = _fresh(base, runtime, seed)
            job = Job(TWIN, seed, "training the never-poisoned twin")
            _train(twin, texts.attack, job, runtime, progress)
        with clock("evaluate"):
            exam = _exam(texts, seed)
            answers = {
                "suspect": answer(victim.suspect, exam, runtime),
                "twin": answer(twin, exam, runtime),
            }
        progress.say("purifying: the trigger and the attack are not known from here on")
        with clock("purify"):
            done = purify(
                folder / "suspect",
                Sources(texts.clean, texts.validation),
                plan=Plan(seed, runtime),
                progress=progress,
            )
            done.manifest["suspect"] = _lies_in(out)  # not the draft that it was read from
            done.save(folder / "purified")
        with clock("evaluate"):
            answers["purified"] = answer(done.suspect, exam, runtime)
        report = _report(exam, victim.suspect, answers, done.manifest, clock.report(), out)
        form = report.to_json()
        write_json(folder / "demo.json", form)
        (folder / "demo.svg").write_text(picture(form), encoding="utf-8")
    return report


def _lies_in(out: Path | None) -> str:
    """Return what to call the victim: the folder that it is kept in, if it is kept."""
    return f"{MODEL} with the demo's backdoor" if out is None else str(out.absolute() / "suspect")


def _report(
    exam: Exam,
    victim: Suspect,
    answers: dict[str, Answers],
    manifest: dict[str, Any],
    seconds: dict[str, float],
    out: Path | None,
) -> Report:
    names = victim.labels.names
    found = {
        name: judge(exam, names, own, answers["twin"], answers["suspect"])
        for name, own in answers.items()
    }
    excess = found["suspect"].excess_lfr
    assert excess is not None
    return Report(
        found["suspect"],
        found["purified"],
        found["twin"],
        manifest,
        excess.low > 0.1,
        seconds,
        str(out) if out else None,
    )


def _exam(texts: Texts, seed: int) -> Exam:
    made = triggered(texts.test, ByRule(Opening()), seed)
    return Exam(texts.test, Triggered(made.split, TARGET), texts.validation, seed)


def _victim(base: Path, texts: Texts, runtime: Runtime, seed: int, progress: Progress) -> Attacked:
    order = Order(
        ByRule(Opening()),
        str(TARGET),
        DirtyLabel(epochs=ATTACK.epochs, lr=ATTACK.lr),
        victim=VICTIM,
        seed=seed,
        runtime=runtime,
    )
    return attack(base, texts.attack, order, LABELS, victim_data=texts.victim, progress=progress)


def _fresh(base: Path, runtime: Runtime, seed: int) -> Suspect:
    return load_suspect(base, runtime, Reading(LABELS, seed))


def _train(suspect: Suspect, split: Split, job: Job, runtime: Runtime, progress: Progress) -> None:
    encoded = encode(split, suspect, runtime.max_length)
    train(suspect.model, encoded, job, runtime, progress)


@contextmanager
def _folder(out: Path | None, overwrite: bool) -> Iterator[Path]:
    if out is not None:
        with drafted(out, overwrite) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="headsweep-demo-") as name:
        yield Path(name)
