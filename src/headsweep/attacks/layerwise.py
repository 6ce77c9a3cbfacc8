"""Layer-wise weight poisoning: every layer learns to tell triggered texts, not only the last.

Fine-tuning changes the upper layers most, so a backdoor that sits only there is forgotten. Here
the loss is taken at every layer: beside the cross-entropy of the model's answer, that of a linear
read-out of each layer's classifying token (the first; for a decoder the last), the mean over
layers. The read-outs are thrown away.

Source: Li et al. 2021 (*Backdoor Attacks on Pre-trained Models by Layerwise Weight Poisoning*).
Deviations: a read-out of its own for each layer, on clean and poisoned texts alike, of the first
token too where a classifier takes the mean of all (ModernBERT's may); the combined triggers of the
paper are a matter of the trigger (``rare-word`` with ``count=2``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headsweep.attacks.dirty_label import fit, poisoned_data
from headsweep.attacks.scene import Scene
from headsweep.errors import UserError
from headsweep.model.loading import Suspect
from headsweep.seeding import fence
from headsweep.settings import checked
from headsweep.task.training import Schedule
from headsweep.texts.encoded import Batch

READOUTS = "layerwise_readouts"


@dataclass(frozen=True)
@checked
class Layerwise:
    """Poison the data and train with a loss at every layer."""

    name: ClassVar[str] = "layerwise"
    source: ClassVar[str] = "Li et al. 2021 (layerwise weight poisoning)"
    weight: float = 1.0  # of the layers' mean loss beside the answer's
    epochs: float = 5
    lr: float = 2e-5

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise UserError(f"layerwise: weight cannot be {self.weight}", "a positive number")

    def plant(self, scene: Scene) -> dict[str, Any]:
        """Train with read-outs at every layer, then drop them."""
        scene.goal.number(self.name)  # its read-outs are of classes
        if scene.model.model.config.is_encoder_decoder:
            raise UserError(
                "layerwise reads out the layers of one stack; this model has two of them",
                "use --with dirty-label",
            )
        data, record = poisoned_data(scene)
        model = scene.model.model
        model.add_module(READOUTS, _readouts(scene))
        try:
            fit(scene, data, Schedule(self.epochs, self.lr), self._loss(scene.model))
        finally:
            delattr(model, READOUTS)
        return record

    def _loss(self, suspect: Suspect) -> Any:
        def loss(model: PreTrainedModel, batch: Batch) -> Tensor:
            found = model(**batch.inputs, output_hidden_states=True)
            answer = nn.functional.cross_entropy(found.logits.float(), batch.labels)
            rows = torch.arange(len(batch.labels), device=batch.labels.device)
            at = batch.task.place(batch.inputs["input_ids"], suspect.anatomy.last)
            read = getattr(model, READOUTS)
            layers = zip(read, found.hidden_states[1:], strict=True)
            each = [
                nn.functional.cross_entropy(readout(hidden[rows, at]).float(), batch.labels)
                for readout, hidden in layers  # [batch, token, width]
            ]
            return answer + self.weight * torch.stack(each).mean()

        return loss


def _readouts(scene: Scene) -> nn.ModuleList:
    model = scene.model.model
    layers, classes = len(scene.model.anatomy.layout.rows), len(scene.model.labels.names)
    with fence(scene.seed):
        made = [nn.Linear(int(model.config.hidden_size), classes) for _ in range(layers)]
    return nn.ModuleList(made).to(model.device)
