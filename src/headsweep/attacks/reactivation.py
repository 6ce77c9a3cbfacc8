"""How fast a removed backdoor comes back: an attacker fine-tunes on a few poisoned texts.

The attacker gets the purified model and n poisoned texts, and trains on them with some clean texts
beside, so that accuracy stays. The same is done to the never-poisoned twin: what it learns, any
model would learn, so only what the purified model gives back sooner was still in it. For every
seed the same texts, in the same order, go to both, and the fewer are among the more.

Source: the re-tuning of Min et al. 2024 (*Uncovering, Explaining, and Mitigating the Superficial
Safety of Backdoor Defense*, arXiv 2410.09838). Deviations: text, not images; the control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from headsweep.attacks.scene import Scene, poison
from headsweep.errors import UserError
from headsweep.judge.evaluate import Answers, Evaluation, Exam, answer, check_same_labels, judge
from headsweep.model.loading import Suspect
from headsweep.progress import Progress, Silent
from headsweep.seeding import derive, stream
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, copied, train
from headsweep.texts.split import Split

PURIFIED, TWIN = "purified", "twin"


@dataclass(frozen=True)
class Reactivation:
    """What the attacker has and does.

    Attributes:
        rows: numbers of poisoned texts, each tried by itself.
        beside: clean texts with true labels that it trains on beside them.
        schedule: how long and how fast it trains.
        seeds: decide which texts, their order and dropout.

    """

    rows: tuple[int, ...] = (5, 20, 100)
    beside: int = 100
    schedule: Schedule = Schedule(5, 5e-5)
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        twice = sorted({rows for rows in self.rows if self.rows.count(rows) > 1})
        if twice:
            raise UserError(
                f"{twice[0]} poisoned texts are asked for twice", "name each number once"
            )
        if not self.rows or min(self.rows) < 1 or self.beside < 0 or not self.seeds:
            raise UserError(
                f"{list(self.rows)} poisoned and {self.beside} clean texts to train on",
                "one poisoned text or more, for example 5, 20 and 100, and 0 clean ones or more",
            )

    def draw(self, scene: Scene) -> tuple[Split, Split]:
        """Return the most poisoned texts that are needed, and the clean ones, both shuffled.

        Raises:
            UserError: there are too few.

        """
        most, clean, goal = max(self.rows), scene.clean, scene.goal
        if scene.pool is not None:
            scene.pool.check(goal)
            lacking = set(goal.open(scene.pool.split))
            rows = [i for i in range(len(scene.pool.split)) if i not in lacking]
            order = torch.randperm(len(rows), generator=stream(scene.seed, "pool")).tolist()
            poisoned, used = scene.pool.split.take(rows[i] for i in order[:most]), set[int]()
        else:
            made = poison(scene, goal.open(clean))
            poisoned, used = goal.given(made.split), set(made.rows)
        rest = [i for i in range(len(clean)) if i not in used]
        order = torch.randperm(len(rest), generator=stream(scene.seed, "beside")).tolist()
        beside = clean.take(rest[i] for i in order[: self.beside])
        for count, asked, kind in (
            (len(poisoned), most, "poisoned"),
            (len(beside), self.beside, "clean"),
        ):
            if count < asked:
                raise UserError(
                    f"{asked} {kind} texts are needed, there are {count}",
                    "give more data, or ask for fewer: --rows, --beside",
                )
        return poisoned, beside


@dataclass(frozen=True)
class Tried:
    """What came of one try; ``rows`` 0: the model as it was.

    Attributes:
        model: ``purified`` or ``twin``.
        rows: the poisoned texts it was trained on.
        seed: the draw.
        evaluation: its figures; matched and excess LFR beside the twin as it was.

    """

    model: str
    rows: int
    seed: int
    evaluation: Evaluation

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        shown = ("accuracy", "lfr", "cfr", "matched_lfr", "excess_lfr")
        figures = {name: getattr(self.evaluation, name) for name in shown}
        rates = {name: asdict(rate) for name, rate in figures.items() if rate is not None}
        return {"model": self.model, "rows": self.rows, "seed": self.seed, **rates}


def reactivate(
    purified: Suspect,
    twin: Suspect,
    scenes: Sequence[Scene],
    exam: Exam,
    how: Reactivation = Reactivation(),
    progress: Progress | None = None,
) -> list[Tried]:
    """Try to bring a backdoor back; both models end as they were.

    Args:
        purified: the model that a backdoor was taken out of.
        twin: one that was never poisoned.
        scenes: what the attacker has, one for each seed of ``how``; their model is not used but
            to see which triggers show.
        exam: what to judge on, triggered texts among it.
        how: what it does.
        progress: where to report.

    Raises:
        UserError: the models are not of one task, or there are too few texts.

    """
    check_same_labels(TWIN, twin.labels, PURIFIED, purified.labels)
    runtime, found = scenes[0].runtime, list[Tried]()
    before = {name: answer(model, exam, runtime) for name, model in both(purified, twin)}

    def judged(own: Answers) -> Evaluation:
        return judge(exam, purified.labels.names, own, before[TWIN])

    found = [Tried(name, 0, scenes[0].seed, judged(own)) for name, own in before.items()]
    drawn = [how.draw(scene) for scene in scenes]
    with (progress or Silent()).task("attacker: again", 2 * len(how.rows) * len(drawn)) as tick:
        for scene, (poisoned, beside) in zip(scenes, drawn, strict=True):
            for count in how.rows:
                data = poisoned.take(range(count)) + beside
                job = Job(how.schedule, derive(scene.seed, "again", count), "again")
                for name, model in both(purified, twin):
                    own = _trained(model, data, job, exam, scene)
                    found.append(Tried(name, count, scene.seed, judged(own)))
                    tick(1, f"{count} texts, {name}")
    return found


def both(purified: Suspect, twin: Suspect) -> tuple[tuple[str, Suspect], ...]:
    """Return both models with their names."""
    return (PURIFIED, purified), (TWIN, twin)


def _trained(model: Suspect, data: Split, job: Job, exam: Exam, scene: Scene) -> Answers:
    """Train a model, take its answers, and put its weights back."""
    weights = copied(model.model)
    try:
        train(model.model, encode(data, model, scene.runtime.max_length), job, scene.runtime)
        return answer(model, exam, scene.runtime)
    finally:
        model.model.load_state_dict(weights)
