"""What a purification leaves in memory: the model with its evidence, and how it is saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from headsweep.drafts import MANIFEST, write_json
from headsweep.errors import UserError
from headsweep.export.card import model_card
from headsweep.export.folders import drafted
from headsweep.export.model_folder import LOGIT_TOLERANCE, fingerprint, reload, save_model
from headsweep.export.provenance import other_files_hash, tensors_hash, weights_hash
from headsweep.export.verify import Check
from headsweep.model.loading import Suspect
from headsweep.model.mask import HeadMask
from headsweep.texts.split import Split


@dataclass
class Purified:
    """A purified model with its evidence.

    Attributes:
        suspect: the model (its pruned heads zero, healed) with tokenizer and labels.
        mask: which heads were kept.
        manifest: all that is written to ``headsweep.json``, as JSON values.
        checks: what was verified.
        held: clean examples it was not trained on: the test data, or else the validation data.

    """

    suspect: Suspect
    mask: HeadMask
    manifest: dict[str, Any]
    checks: list[Check]
    held: Split

    @property
    def model(self) -> PreTrainedModel:
        """The purified model, float32, in eval mode."""
        return self.suspect.model

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every trial of the search, as in the manifest."""
        steps: list[dict[str, Any]] = self.manifest["search"]["steps"]
        return steps

    @property
    def verified(self) -> bool:
        """True when every check passed."""
        return all(check.passed for check in self.checks)

    def save(self, out: str | Path, overwrite: bool = False) -> Path:
        """Write the folder whole, after loading the draft plainly and comparing logits.

        Raises:
            UserError: the folder exists or cannot be written, or what was written does not
                load or gives other logits.

        """
        out = Path(out)
        with drafted(out, overwrite) as draft:
            save_model(self.suspect, draft)
            loaded = reload(draft, self.suspect.task)
            _compare(self.model, loaded)
            self.manifest["weights_sha256"] = weights_hash(draft)
            self.manifest["other_files_sha256"] = other_files_hash(draft)
            self.manifest["tensors_sha256"] = tensors_hash(loaded)
            self.manifest["fingerprint"] = fingerprint(self.model).tolist()
            write_json(draft / MANIFEST, self.manifest)
            (draft / "README.md").write_text(model_card(self.manifest), encoding="utf-8")
        return out


def _compare(model: PreTrainedModel, other: PreTrainedModel) -> None:
    gap = float((fingerprint(model) - fingerprint(other)).abs().max())
    if not gap <= LOGIT_TOLERANCE:
        raise UserError(
            f"the saved model gives other logits when loaded again (largest difference {gap:.1e})",
            "nothing was written; please report this architecture",
        )
