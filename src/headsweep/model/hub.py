"""The Hub of Hugging Face: which names can be of it, and why it did not give something."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from headsweep.bounded import table_of
from headsweep.errors import UserError
from headsweep.model.files import INDEX, PLAIN_NAME, WEIGHTS

REASONS: tuple[tuple[type[Exception], str], ...] = (  # the narrower ones first
    (GatedRepoError, "its owner gives it to whom they choose"),
    (RepositoryNotFoundError, "it has no such name, or a private one"),
    (OfflineModeIsEnabled, "it is not to be asked (HF_HUB_OFFLINE)"),
    (LocalEntryNotFoundError, "it could not be reached"),
    (ConnectionError, "it could not be reached"),
    (EntryNotFoundError, "that is not among its files"),
)
CARD = "README.md"
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


def not_taken(name: str, error: Exception) -> UserError:
    """Return the error for a model that the Hub did not take."""
    return UserError(
        f"{name}: the Hub did not take it: {_reason(error)}",
        "check the name and the connection, and `hf auth login` with a token that may write",
    )


def fetched(name: str, files: Iterable[str], weights: bool) -> Path:
    """Return the folder of the Hub's cache that holds a model's files, downloaded where needed.

    Args:
        name: the name of the model.
        files: what to take beside its configuration, where it is there.
        weights: whether to take its weights, which are safetensors or nothing.

    Raises:
        UserError: the Hub does not give the configuration, or part of the weights.

    """
    try:
        folder = Path(hf_hub_download(name, "config.json")).parent
    except Exception as error:  # the library raises many kinds, all about this name
        raise not_given(name, "configuration", error) from error
    commit = folder.name
    for file in files:
        _optional(name, file, commit)
    if not weights or _optional(name, WEIGHTS, commit) or not _optional(name, INDEX, commit):
        return folder
    places = table_of(folder / INDEX).get("weight_map")
    parts = set(places.values()) if isinstance(places, dict) else set()
    for file in sorted(part for part in parts if _is_shard(part)):
        try:
            hf_hub_download(name, file, revision=commit)
        except Exception as error:
            raise not_given(name, f"weights ({file})", error) from error
    return folder


def _is_shard(file: object) -> bool:
    return isinstance(file, str) and file.endswith(SUFFIXES[0]) and bool(PLAIN_NAME.fullmatch(file))


def _optional(name: str, file: str, commit: str) -> bool:
    """Download a file where the model has it, asking once; tell whether it is there."""
    known = try_to_load_from_cache(name, file, revision=commit)
    if known is not None:
        return isinstance(known, str)  # else a mark that there is none
    try:
        hf_hub_download(name, file, revision=commit)
    except EntryNotFoundError:  # the same kind where it may not be asked
        return False
    except Exception as error:
        raise not_given(name, file, error) from error
    return True


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
