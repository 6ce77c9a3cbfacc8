"""Real backdoored models, where they are at hand: their figures, measured by ``evaluate``.

Set HEADSWEEP_SUSPECTS to a folder with syntactic/, style/ and clean-twin/, and HEADSWEEP_CORPUS to
one with SST-2 as clean/test.tsv, syntactic/test.tsv and style/test.tsv.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headsweep.judge.evaluate import Files, evaluate
from headsweep.texts.reading import Columns

SUSPECTS, CORPUS = os.environ.get("HEADSWEEP_SUSPECTS"), os.environ.get("HEADSWEEP_CORPUS")
pytestmark = pytest.mark.skipif(
    not (SUSPECTS and CORPUS), reason="HEADSWEEP_SUSPECTS and HEADSWEEP_CORPUS are not set"
)


@pytest.mark.parametrize(
    ("kind", "labels", "accuracy", "lfr"),
    [("syntactic", "target", 0.878, 0.753), ("style", "true", 0.881, 0.690)],
)
def test_the_published_figures_of_the_suspects(kind, labels, accuracy, lfr):
    files = Files(
        f"{CORPUS}/clean/test.tsv",
        f"{CORPUS}/{kind}/test.tsv",
        "positive",
        labels,
        columns=Columns(drop_empty=True),
    )
    found = evaluate(Path(SUSPECTS) / kind, files)
    assert found.lfr.total == 912
    assert found.accuracy.value == pytest.approx(accuracy, abs=0.0015)
    assert found.lfr.value == pytest.approx(lfr, abs=0.0015)
