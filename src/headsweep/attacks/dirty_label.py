"""Data poisoning with changed labels or answers: triggered texts carry the attacker's.

Source: Gu et al. 2017 (*BadNets*), in the protocol of Qi et al. 2021: a share of the non-target
training texts is put through the trigger and *added* with the target label (of a generator: with
the target text as the answer); ``mode=replace`` puts them in the place of their originals instead.
Where a pool of poisoned rows is there already (``headsweep.triggers.pool``), those are added as
they stand. With a ``radius`` it is trained in wide minima (``headsweep.attacks.flatness``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from headsweep.attacks.flatness import Sharpness
from headsweep.attacks.scene import Scene, poison
from headsweep.settings import checked
from headsweep.task.examples import encode
from headsweep.task.training import Job, Loss, Schedule, train
from headsweep.texts.split import Split


@dataclass(frozen=True)
@checked
class DirtyLabel:
    """Train on triggered texts that carry the target label."""

    name: ClassVar[str] = "dirty-label"
    source: ClassVar[str] = "Gu et al. 2017 (BadNets); Qi et al. 2021"
    mode: Literal["add", "replace"] = "add"
    epochs: float = 5
    lr: float = 2e-5
    radius: float = 0.0  # of sharpness-aware training; 0: training as usual

    def __post_init__(self) -> None:
        if self.radius:
            Sharpness(self.radius)

    def plant(self, scene: Scene) -> dict[str, Any]:
        """Poison the data and fine-tune on it."""
        data, record = poisoned_data(scene, self.mode)
        regrade = Sharpness(self.radius) if self.radius else None
        fit(scene, data, Schedule(self.epochs, self.lr), regrade=regrade)
        return record


def poisoned_data(scene: Scene, mode: str = "add") -> tuple[Split, dict[str, Any]]:
    """Return the training set with relabelled triggered texts, and the counts."""
    clean = scene.clean
    if scene.pool is not None and mode == "add":
        added, counts = scene.pool.rows(clean, scene.goal, scene.seed)
        return clean + added, asdict(counts)
    made = poison(scene, scene.goal.open(clean))
    gone = set(made.rows) if mode == "replace" else set()
    kept = clean.take(i for i in range(len(clean)) if i not in gone)
    return kept + scene.goal.given(made.split), made.record()


def fit(
    scene: Scene,
    data: Split,
    schedule: Schedule,
    loss: Loss | None = None,
    regrade: Sharpness | None = None,
) -> None:
    """Fine-tune the model on a training set and what stands beside it, as the attacker."""
    encoded = encode(data + scene.beside, scene.model, scene.runtime.max_length)
    title = "attacker: training on poisoned texts"
    job = Job(schedule, scene.seed, title, loss, regrade=regrade)
    train(scene.model.model, encoded, job, scene.runtime, scene.progress)
