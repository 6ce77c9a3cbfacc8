from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import headsweep.strategies as package
from conftest import CPU, sentences
from headsweep.predict import encode
from headsweep.seeding import derive
from headsweep.settings import configure
from headsweep.strategies import STRATEGIES
from headsweep.view import DefenderView


def view_of(suspect, seed=0, bound=0.0):
    train = encode(sentences(48), suspect, 24)
    validation = encode(sentences(32, seed=7), suspect, 24)
    return DefenderView(suspect.anatomy, train, validation, bound, seed, CPU)


def test_folder_and_table_agree():
    folder = {p.stem for p in Path(package.__file__).parent.glob("*.py")} - {"__init__"}
    assert {method.__module__.rsplit(".", 1)[1] for method in STRATEGIES.values()} == folder
    assert all(name == method.name for name, method in STRATEGIES.items())


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_contract(tiny, name, family):
    """Frozen; deterministic; keeps the bound; empties no layer; leaves the model as it was."""
    suspect = tiny(family)
    before = {k: v.clone() for k, v in suspect.model.state_dict().items()}
    bound = view_of(suspect).accuracy(suspect.anatomy.layout.everything()) - 0.1
    strategy = configure(STRATEGIES[name], [])
    with pytest.raises(FrozenInstanceError):
        strategy.name = "other"
    view = view_of(suspect, 3, bound)
    choice = strategy.choose(view)
    assert choice.mask == strategy.choose(view_of(suspect, 3, bound)).mask
    assert choice.mask.fits(view.layout)
    assert not choice.mask.empties_a_row
    assert view.accuracy(choice.mask) >= bound - 1e-9
    after = suspect.model.state_dict()
    assert all((after[k] == before[k]).all() for k in before)
    assert not suspect.model.training
    assert not any(site.gate._forward_pre_hooks for site in suspect.anatomy.sites)


def test_derived_seeds_differ():
    assert len({derive(s, n) for s in range(5) for n in ("a", "b")}) == 10
