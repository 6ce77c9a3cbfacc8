"""A strategy and a healing from outside the package go through the whole pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from conftest import CPU, sentences
from headsweep import Bound, FineTune, Gradient, Method, Plan, Sources, UserError, purify
from headsweep.export.verify import verify
from headsweep.model.removal import already_pruned
from headsweep.prune.choice import Choice, Needs
from headsweep.prune.strategies.nothing import Nothing
from headsweep.prune.view import DefenderView


@dataclass(frozen=True)
class LastOfEveryLayer:
    """Prune the last head of every layer, whatever that costs."""

    name: ClassVar[str] = "last-of-every-layer"
    source: ClassVar[str] = "this test"
    needs: ClassVar[Needs] = Needs(bound=False, searches=0)

    def choose(self, view: DefenderView) -> Choice:
        """Return the mask."""
        last = [part.stop - 1 for part in view.layout.slices]
        return Choice(view.layout.mask(last), bounded=False)


def data() -> Sources:
    return Sources(sentences(60), sentences(40, seed=5), sentences(40, seed=6))


def test_a_strategy_from_outside_goes_through_the_whole_pipeline(trained_folder, tmp_path):
    method = Method(LastOfEveryLayer(), FineTune(1, 1e-3), bound=Bound(max_drop=0.0))
    assert not method.binds
    done = purify(trained_folder, data(), method, Plan(runtime=CPU))
    assert done.mask.pruned_heads == ((0, 3), (1, 3))
    assert already_pruned(done.suspect.anatomy) == done.mask
    assert done.manifest["strategy"] == {"name": "last-of-every-layer", "fields": {}}
    assert done.manifest["bound"]["binds"] is False
    out = done.save(tmp_path / "out")
    assert [check for check in verify(out) if not check.passed] == []


def test_methods_that_do_not_go_together():
    with pytest.raises(UserError, match="nothing is pruned"):
        Method(Nothing(), bound=Bound(prune_drop=0.1))
    with pytest.raises(UserError, match="leaves it to healing"):
        Method(Gradient(), FineTune(0), bound=Bound(prune_drop=0.1))
    within: Any = Method(Gradient(), FineTune(0), bound=Bound(max_drop=0.3, prune_drop=0.1))
    assert within.binds


def test_nothing_at_all_leaves_the_suspect_as_it_is(trained_folder):
    method = Method(Nothing(), FineTune(0), bound=None)
    assert method.does_nothing
    done = purify(trained_folder, data(), method, Plan(runtime=CPU))
    from headsweep.model.loading import load_suspect

    before = load_suspect(trained_folder, CPU).model.state_dict()
    assert all(torch.equal(before[name], x) for name, x in done.model.state_dict().items())
    assert done.manifest["before"] == done.manifest["after"]
