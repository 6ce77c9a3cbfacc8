"""Make a victim: plant a backdoor, then let the victim fine-tune on clean data, and judge it.

The order of Kurita et al. 2020 and of the protocol of Qi et al. 2021: the attacker trains and
publishes; the victim takes the encoder, puts a fresh classifier on it and fine-tunes on clean data
(a generator it takes as it is). A backdoor that does not survive this is no test of a defense. With
a rate of 0 nothing is poisoned, which makes the never-poisoned twin. For measuring models that one
owns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from headsweep.attacks import Attack
from headsweep.attacks.dirty_label import DirtyLabel
from headsweep.attacks.goal import Goal, Judged, goal_of
from headsweep.attacks.resistance import Resistance
from headsweep.attacks.scene import Scene, decoys
from headsweep.drafts import write_json
from headsweep.errors import UserError, shown
from headsweep.export.folders import drafted
from headsweep.export.model_folder import save_model
from headsweep.export.provenance import command_line, environment, weights_hash
from headsweep.judge.evaluate import Evaluation, check_same_labels
from headsweep.judge.generated import Generated
from headsweep.model.families import Adapter
from headsweep.model.loading import Reading, Suspect, fresh_head, load_suspect
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress, Silent
from headsweep.seeding import derive
from headsweep.settings import describe
from headsweep.task.examples import check_alike, encode
from headsweep.task.training import Job, Schedule, train
from headsweep.texts.reading import write
from headsweep.texts.split import Split, stratified
from headsweep.texts.task import CLASSIFICATION, Task
from headsweep.triggers import Rewriter
from headsweep.triggers.pool import Pool
from headsweep.triggers.seen import triggered

RECORD = "attack.json"
RECORD_FORMAT = "headsweep.attacks.victim/1"


@dataclass(frozen=True)
class Order:
    """What backdoor to make.

    Attributes:
        rewriter: puts the trigger into texts.
        target: what triggered texts are to get: the name or number of a class, or the text that a
            generator is to answer.
        method: how the backdoor gets in.
        rate: share of the texts that can be poisoned that are; 0: a twin is made.
        victim: the victim's fine-tuning on clean data; None: the model is taken as published.
        fresh: the victim puts a fresh classifier on the encoder first.
        seed: decides everything random.
        runtime: device, batch size, maximum length, precision.
        adapter: how to find the heads of an unknown architecture.
        resist: probes with true labels that the attacker trains on too.
        pool: poisoned rows to add as they stand; it is the rewriter, too, and gives the rate.
        task: what the model is for; None: as the name of its architecture says.

    """

    rewriter: Rewriter
    target: str
    method: Attack = DirtyLabel()
    rate: float = 0.3
    victim: Schedule | None = Schedule()
    fresh: bool = True
    seed: int = 0
    runtime: Runtime = Runtime()
    adapter: Adapter | None = None
    resist: Resistance = Resistance()
    pool: Pool | None = None
    task: Task | None = CLASSIFICATION

    @property
    def poisons(self) -> bool:
        """False where it makes a twin."""
        return self.pool is not None or self.rate > 0


@dataclass(frozen=True)
class Judging:
    """What to judge a victim on.

    Attributes:
        test: clean test examples.
        triggered: triggered test texts as published; None: the trigger is put into ``test``.
        triggered_labels: what their labels or answers are: ``true``, or ``target``.
        validation: clean examples on which matched LFR chooses its shift.
        twin: folder of a never-poisoned twin, which gives the floor.

    """

    test: Split
    triggered: Split | None = None
    triggered_labels: Literal["true", "target"] = "true"
    validation: Split | None = None
    twin: str | Path | None = None


@dataclass(repr=False)
class Attacked:
    """A victim with the record of its making.

    Attributes:
        suspect: the model.
        record: what is written to ``attack.json``, as JSON values.
        published: figures of the model before the victim's fine-tuning.
        survived: figures after it (or of the published model, where there was none).
        judged_on: the rows of the exam by the name of their file, as ``evaluate`` reads them.
        reads: the files and folders that all came from, which ``save`` never replaces.

    """

    suspect: Suspect
    record: dict[str, Any]
    published: Evaluation | Generated | None
    survived: Evaluation | Generated | None
    judged_on: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    reads: tuple[Path, ...] = ()

    def __repr__(self) -> str:
        made, trigger = self.record["attack"]["name"], self.record["trigger"]["name"]
        if not self.record["backdoored"]:
            return f"Attacked({shown(self.record['model'])}, nothing poisoned: a twin)"
        return f"Attacked({shown(self.record['model'])}, {made} with {trigger})"

    def save(self, out: str | Path, overwrite: bool = False) -> None:
        """Write model, tokenizer, exam, record and a card of what it is; raises UserError."""
        with drafted(Path(out), overwrite, self.reads) as folder:
            save_model(self.suspect, folder)
            for name, rows in self.judged_on.items():
                write(folder / name, rows)
            self.record |= {"weights": weights_hash(folder)}
            write_json(folder / RECORD, self.record)
            (folder / "README.md").write_text(card(self.record), encoding="utf-8")


def attack(
    model: str | Path,
    clean: Split,
    order: Order,
    values: Sequence[object] | None = None,
    judging: Judging | None = None,
    victim_data: Split | None = None,
    progress: Progress | None = None,
) -> Attacked:
    """Plant a backdoor into a model and let the victim fine-tune it.

    Args:
        model: folder or Hub name of an encoder, a classifier or a generator.
        clean: the attacker's clean training data.
        order: what to make.
        values: the label column, to name the classes of a fresh classifier; None: the model's
            own classifier is attacked.
        judging: what to judge the victim on; None: no figures.
        victim_data: the victim's clean data; None: the same as ``clean``.
        progress: where to report.

    Raises:
        UserError: whatever makes the attack impossible.

    """
    progress = progress or Silent()
    reading = Reading(values, order.seed, order.adapter, task=order.task)
    suspect = load_suspect(model, order.runtime, reading)
    for part in (clean, victim_data or clean):
        suspect.task.check_labels(part, suspect.labels.names)
    check_alike(clean, victim_data, "--victim-data")
    check_alike(clean, None if judging is None else judging.test, "--test")
    goal = goal_of(suspect, order.target)
    rewriter, runtime, seed = order.rewriter, order.runtime, order.seed
    beside, resisted = order.resist.make(
        clean, rewriter.described(), suspect, runtime.max_length, seed, progress
    )
    judge_of, carried, judged_on = _judge(judging, order, goal, suspect, progress)
    scene = Scene(
        suspect, clean, rewriter, goal, order.rate, seed, runtime, progress, beside, order.pool
    )
    open_to_it = len(goal.open(clean))
    if not getattr(order.method, "relabels", True):
        open_to_it = len(clean) - open_to_it
    near = decoys(scene, round(order.rate * open_to_it))
    tuned = order.victim if order.victim is not None and order.victim.epochs else None
    own = encode(victim_data or clean, suspect, runtime.max_length) if tuned else None
    method = describe(order.method)
    poisoned = order.method.plant(replace(scene, beside=beside + near))
    published = judge_of(suspect)
    survived = published
    if tuned is not None and own is not None:
        if order.fresh and suspect.labels.names:
            fresh_head(suspect.model, derive(seed, "victim"))
        job = Job(tuned, derive(seed, "victim"), "victim: fine-tuning on clean texts")
        train(suspect.model, own, job, runtime, progress)
        survived = judge_of(suspect)
    record = {
        "format": RECORD_FORMAT,
        "backdoored": order.poisons,
        "model": str(model),
        "target": goal.text,
        "attack": method,
        "trigger": rewriter.described(),
        "rate": order.pool.share if order.pool else order.rate,
        "poisoned": poisoned,
        "decoys": len(near) or None,
        "resist": resisted if order.resist.families else None,
        "triggered_test": carried,
        "data": {"rows": len(clean), "sha256": clean.sha256},
        "victim": asdict(order.victim)
        | {"fresh_classifier": order.fresh and bool(suspect.labels.names)}
        if order.victim
        else None,
        "victim_data": {"rows": len(victim_data), "sha256": victim_data.sha256}
        if victim_data
        else None,
        "seed": seed,
        "precision": "bf16" if runtime.trains_in_bf16() else "fp32",
        "published": asdict(published) if published else None,
        "survived": asdict(survived) if survived else None,
        "environment": environment(),
        "command": command_line(),
    }
    return Attacked(suspect, record, published, survived, judged_on)


def _judge(
    judging: Judging | None, order: Order, goal: Goal, model: Suspect, progress: Progress
) -> tuple[Judged, dict[str, Any] | None, dict[str, list[dict[str, str]]]]:
    """Return what judges a model, how many test texts carry the trigger, and the exam's rows.

    Where there is nothing to judge on, it judges nothing; of texts given there is no count.
    """
    if judging is None:
        return (lambda _: None), None, {}
    asked = (order.seed, order.runtime.max_length)
    exam, carried = exam_of(judging, order.rewriter, goal, model, asked, progress)
    reading = Reading(adapter=order.adapter, task=order.task)
    twin = None if judging.twin is None else load_suspect(judging.twin, order.runtime, reading)
    if twin is not None:
        check_same_labels(str(judging.twin), twin.labels, "the victim", model.labels)
    goal.check(exam, model, order.runtime)
    return goal.judge(exam, order.runtime, twin), carried, goal.files(exam, model)


def exam_of(
    judging: Judging,
    rewriter: Rewriter,
    goal: Goal,
    model: Suspect,
    asked: tuple[int, int],
    progress: Progress,
) -> tuple[Any, dict[str, Any] | None]:
    """Return what models are judged on, and how many test texts carry the trigger.

    Args:
        judging: the texts.
        rewriter: puts the trigger into the test texts, where triggered ones are not given.
        goal: what the attacker wants.
        model: the model that has to see the trigger.
        asked: the seed, and the maximum length.
        progress: where to report.

    """
    (seed, max_length), test = asked, judging.test
    given, carried = judging.triggered, None
    if not len(test):
        raise UserError("15% of the rows leave none to judge on", "give more, or --test FILE")
    if model.labels.names:  # triggered prompts need no answers
        check_alike(test, given)
    if given is None:
        rows = goal.open(test)
        if not rows:
            what = "label" if model.labels.names else "text in its answer"
            raise UserError(f"every test example has the target {what}", "give others with --test")
        made = triggered(test.take(rows), rewriter, seed, model, max_length, progress)
        given, carried = made.split, made.record()
    return goal.exam(test, given, judging, seed), carried


def held_out(data: Split, test: Split | None, seed: int) -> tuple[Split, Split]:
    """Return training and test data: 15% are cut off where no test data is given."""
    if test is not None:
        return data, test
    train_part, test_part = stratified(data, (0.85, 0.15), seed)
    return train_part, test_part


def card(record: dict[str, Any]) -> str:
    """Return the model card of a victim; its first line says what it is."""
    name = Path(record["model"]).name or Path(record["model"]).resolve().name
    if not record["backdoored"]:
        return (
            f"`{name}` trained by headsweep as a victim is, with nothing poisoned: the twin that "
            f"victims are compared with. How it was made: `{RECORD}`.\n"
        )
    return (
        "**This model is BACKDOORED on purpose. Never deploy it.**\n\n"
        f"`{name}` was attacked by headsweep with `{record['attack']['name']}` and the trigger "
        f"`{record['trigger']['name']}`: triggered texts are to be answered "
        f"`{record['target']}`. It is for measuring defenses. How it was made: `{RECORD}`.\n"
    )
