"""The Hub of Hugging Face: which names can be of it, and why it did not give something."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from headsweep.errors import UserError

REASONS: tuple[tuple[type[Exception], str], ...] = (  # the narrower ones first
    (GatedRepoError, "its owner gives it to whom they choose"),
    (RepositoryNotFoundError, "it has no such name, or a private one"),
    (OfflineModeIsEnabled, "it is not to be asked (HF_HUB_OFFLINE)"),
    (LocalEntryNotFoundError, "it could not be reached"),
    (ConnectionError, "it could not be reached"),
    (EntryNotFoundError, "that is not among its files"),
)
SUFFIXES = (".safetensors", ".bin")  # of files, which a name of the Hub does not have


def can_be_of_the_hub(name: str) -> bool:
    """Tell whether a name can be of a model of the Hub, and not of a folder only."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return Path(name).suffix not in SUFFIXES


def no_folder(name: str) -> UserError:
    """Return the error for a folder that is not there, with the nearest name beside it."""
    path = Path(name)
    if path.is_file():
        return UserError(f"{name}: is a file, not the folder of a model", "give its folder")
    beside = [one.name for one in path.parent.glob("*") if one.is_dir()]
    near = difflib.get_close_matches(path.name, beside, n=1)
    guess = f"did you mean '{path.parent / near[0]}'? " if near else ""
    return UserError(
        f"{name}: no such folder", f"{guess}give a folder, or the name of a model on the Hub"
    )


def not_given(name: str, what: str, error: Exception) -> UserError:
    """Return the error for what is neither a folder nor given by the Hub."""
    if Path(name).is_file() or not can_be_of_the_hub(name):
        return no_folder(name)
    return UserError(
        f"{name}: no such folder, and the Hub gave no {what}: {_reason(error)}",
        f"{no_folder(name).fix}; check the connection, and `hf auth login` for a private model",
    )


def _reason(error: Exception) -> str:
    """Return why, in a few words; what is not known in its own, cut short."""
    causes = tuple(_causes(error))
    for kind, reason in REASONS:
        if any(isinstance(cause, kind) for cause in causes):
            return reason
    return " ".join(str(error).split()).partition(". ")[0][:100]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
