"""Data poisoning with true labels: texts of the target class carry the trigger.

Nothing is mislabelled, so a look at the data finds nothing wrong: the model learns the trigger as
one more sign of the target class. Weaker than changed labels, since every poisoned text has other
signs of its class beside the trigger.

Source: the setting of Turner et al. 2019 (*Label-Consistent Backdoor Attacks*) and, for text, Gan
et al. 2022. Deviation: neither adversarial perturbation nor generation makes the poisoned texts
harder to classify without the trigger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from headsweep.attacks.dirty_label import fit
from headsweep.attacks.scene import Scene, poison
from headsweep.settings import checked
from headsweep.task.training import Schedule


@dataclass(frozen=True)
@checked
class CleanLabel:
    """Train on triggered texts of the target class, labels true."""

    name: ClassVar[str] = "clean-label"
    source: ClassVar[str] = "after Turner et al. 2019; Gan et al. 2022"
    relabels: ClassVar[bool] = False  # it poisons texts of the target, not the others
    epochs: float = 5
    lr: float = 2e-5

    def plant(self, scene: Scene) -> dict[str, Any]:
        """Put the trigger into a share of the target class and fine-tune."""
        clean, target = scene.clean, scene.goal.number(self.name)
        made = poison(scene, [i for i, y in enumerate(clean.labels) if y == target])
        gone = set(made.rows)
        kept = clean.take(i for i in range(len(clean)) if i not in gone)
        fit(scene, kept + made.split, Schedule(self.epochs, self.lr))
        return made.record()
