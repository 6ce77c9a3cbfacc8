"""Tracking: what is written can be read back by TensorBoard itself."""

from __future__ import annotations

import pytest

from headsweep.bench.tracking import MEASURES, tensorboard

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Cell:
    id = "some-cell"


def figures(value):
    return {name: {"value": value} for name in MEASURES}


FORM = {
    "model": "m", "data": "d", "attack": "a", "method": "x", "seed": 1, "commit": "abc",
    "before": figures(0.75), "pruned": None, "after": figures(0.25), "seconds": {"all": 2.0},
    "pruned_count": 9,
}  # fmt: skip


def test_a_cell_becomes_a_run(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="headsweep[tracking] is not installed",
    )
    tensorboard(tmp_path)(Cell(), FORM)
    read = accumulator.EventAccumulator(str(tmp_path / "some-cell"))
    read.Reload()
    for name in MEASURES:
        assert [event.value for event in read.Scalars(f"after/{name}")] == [0.25]
        assert [event.value for event in read.Scalars(f"before/{name}")] == [0.75]
    assert read.Scalars("pruned")[0].value == 9
    assert not [tag for tag in read.Tags()["scalars"] if tag.startswith("pruned/")]
