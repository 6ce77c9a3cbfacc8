"""What a purification leaves in memory: the model with its evidence, and how it is saved."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi
from torch import Tensor
from transformers import PreTrainedModel

from headsweep.drafts import MANIFEST, write_json
from headsweep.errors import UserError, shown
from headsweep.export.card import model_card
from headsweep.export.compact import Compacted, compact_model
from headsweep.export.folders import drafted
from headsweep.export.model_folder import LOGIT_TOLERANCE, fingerprint, gap_of, reload, save_model
from headsweep.export.provenance import other_files_hash, tensors_hash, weights_hash
from headsweep.export.verify import Check
from headsweep.model.hub import can_be_of_the_hub, not_taken
from headsweep.model.loading import Suspect
from headsweep.model.mask import HeadMask
from headsweep.model.narrow import widen
from headsweep.purification.shown import as_frame, as_html, in_a_line, units_of
from headsweep.texts.split import Split

if TYPE_CHECKING:
    import pandas

LOADED = re.compile(
    r"[^/]+\.(safetensors|json|jinja|model)|(pytorch_model|adapter_model|tf_model)[^/]*"
    r"|(vocab|merges|added_tokens)[^/]*|additional_chat_templates/.*"
)
"""Files of a repository that transformers may load unasked."""


@dataclass
class Purified:
    """A purified model with its evidence.

    Attributes:
        suspect: the model (its pruned heads zero, healed) with tokenizer and labels.
        mask: which heads were kept.
        manifest: all that is written to ``headsweep.json``, as JSON values.
        checks: what was verified.
        held: clean examples it was not trained on: the test data, or else the validation data.
        reads: the files and folders that suspect and data came from, which ``save`` never replaces.
        seen: what the model answered when it was measured (``fingerprint``); ``save`` writes no
            other.

    """

    suspect: Suspect
    mask: HeadMask
    manifest: dict[str, Any]
    checks: list[Check]
    held: Split
    reads: tuple[Path, ...] = ()
    seen: Tensor | None = None

    def __post_init__(self) -> None:
        if self.seen is None:
            self.seen = fingerprint(self.suspect.model)

    def __repr__(self) -> str:
        """Return what was pruned, accuracy before and after, and whether it verified, in a line."""
        return in_a_line(self.manifest, self.mask)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the map of heads, and accuracy before and after."""
        return as_html(self.manifest, self.mask)

    @property
    def model(self) -> PreTrainedModel:
        """The purified model, float32, in eval mode."""
        return widen(self.suspect.model)

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every trial of the search, as in the manifest."""
        steps: list[dict[str, Any]] = self.manifest["search"]["steps"]
        return steps

    @property
    def verified(self) -> bool:
        """True when every check passed."""
        return all(check.passed for check in self.checks)

    def to_frame(self) -> pandas.DataFrame:
        """Return a row for every unit that could be pruned, as a pandas data frame.

        Columns: ``kind`` (head, group of a key/value head with its query heads, or ffn), ``layer``,
        ``index`` (both from 0), ``kept``, and the ``score`` that the search ranked it by, empty
        where it ranked nothing.

        Raises:
            MissingExtra: pandas is not installed.

        """
        return as_frame(units_of(self.manifest, self.mask))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "A model purified by headsweep",
        api: HfApi | None = None,
    ) -> str:
        """Upload what ``save`` writes to the Hub; return the repository's address.

        Args:
            repo_id: ``user/name`` or ``name``; made where it is not there.
            private: whether a repository that is made is private; None: as the account says.
            token: may write there; None: the one of ``hf auth login``.
            revision: the branch; None: the main one.
            commit_message: of the upload.
            api: the client to use, for an endpoint of one's own.

        Raises:
            UserError: a check failed, no name of a repository, the Hub does not take it, or the
                repository holds files that transformers might load in the place of the model's.

        """
        if not self.verified:
            failed = next(check for check in self.checks if not check.passed)
            raise UserError(
                f"a check failed, so this is not uploaded: {failed.what}",
                "look at .checks; .save(folder) writes it all the same",
            )
        if not can_be_of_the_hub(repo_id):
            raise UserError(f"{repo_id}: no name of a repository", "for example user/model")
        client = HfApi(token=token) if api is None else api
        with tempfile.TemporaryDirectory() as place:
            folder = self.save(Path(place) / "model")
            try:
                made = client.create_repo(repo_id, private=private, exist_ok=True)
                _check_alone(made.repo_id, client.list_repo_files(made.repo_id, revision=revision),
                             folder)  # fmt: skip
                client.upload_folder(
                    repo_id=made.repo_id,
                    folder_path=folder,
                    commit_message=commit_message,
                    revision=revision,
                )
            except UserError:
                raise
            except Exception as error:  # the library raises many kinds, all about this name
                raise not_taken(repo_id, error) from error
        return str(made)

    def compact(self, out: str | Path, overwrite: bool = False) -> Compacted:
        """Write the model with its pruned units cut out, so that it is smaller.

        Returns:
            How much smaller it is, and whether plain ``from_pretrained`` loads it or only
            ``headsweep.load``.

        Raises:
            UserError: the architecture cannot be cut, nothing was pruned whole, or the folder
                holds the suspect or the data, or cannot be written.

        """
        return compact_model(self.suspect, self.mask, Path(out), overwrite, self.reads)

    def save(self, out: str | Path, overwrite: bool = False) -> Path:
        """Write the folder whole, after loading the draft plainly and comparing logits.

        Raises:
            UserError: the folder exists, holds the suspect or the data, or cannot be written,
                what was written does not load or gives other logits, or the model in memory is
                no longer the one that was measured.

        """
        out = Path(out)
        assert self.seen is not None
        gap = gap_of(fingerprint(self.suspect.model), self.seen)
        if not gap <= LOGIT_TOLERANCE:
            raise UserError(
                "the model in memory was changed since it was measured (its logits by "
                f"{gap:.1e}), so that its figures are those of another model",
                "save a purified model before anything trains or purifies it again",
            )
        with drafted(out, overwrite, self.reads) as draft:
            save_model(self.suspect, draft)
            loaded = reload(draft, self.suspect.task)
            _compare(self.suspect.model, loaded)
            self.manifest["weights_sha256"] = weights_hash(draft)
            self.manifest["other_files_sha256"] = other_files_hash(draft)
            self.manifest["tensors_sha256"] = tensors_hash(loaded)
            self.manifest["fingerprint"] = fingerprint(self.suspect.model).tolist()
            write_json(draft / MANIFEST, self.manifest)
            (draft / "README.md").write_text(model_card(self.manifest), encoding="utf-8")
        return out


def _check_alone(repo_id: str, there: Iterable[str], folder: Path) -> None:
    """Refuse a repository with files of another model, such as an adapter's; raises UserError."""
    foreign = [
        name for name in sorted(there) if LOADED.fullmatch(name) and not (folder / name).exists()
    ]
    if foreign:
        raise UserError(
            f"{repo_id}: holds {shown(foreign[0])}, which is no file of the purified model and "
            "which transformers may load in its place",
            "choose another repository, or delete the file there first",
        )


def _compare(model: PreTrainedModel, other: PreTrainedModel) -> None:
    gap = gap_of(fingerprint(other), fingerprint(model))
    if not gap <= LOGIT_TOLERANCE:
        raise UserError(
            f"the saved model gives other logits when loaded again (largest difference {gap:.1e})",
            "nothing was written; please report this architecture",
        )
