"""What is tried alike on every kind of task: strategies, and a purification from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import CPU
from headsweep import Bound, FineTune, Method, Plan, Purified, Sources, purify
from headsweep.cli import main
from headsweep.prune.strategies import STRATEGIES
from headsweep.texts.split import Split

CHOOSING = ("layerwise", "sparsify", "ensemble", "reinforce", "bayesian", "variance")
QUICK: dict[str, dict[str, Any]] = {
    "reinforce": {"updates": 20, "samples": 4, "batch": 16},
    "bayesian": {"passes": 3, "rate": 0.1},
    "ensemble": {"per_layer": 1, "combine": "union"},
}
COMPUTE = ("--device", "cpu", "--compute", "max_length=24")
HEALING = ("--heal", "epochs=1", "--heal", "members=1", "--heal", "beyond=1")
Said = Callable[..., str]


def written(path: Path, rows: Sequence[Any]) -> Path:
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def pruned_by(name: str, victim: Path, train: Split, held: Split) -> Purified:
    """Prune a victim by a strategy, without healing."""
    method = Method(STRATEGIES[name](**QUICK.get(name, {})), FineTune(0), bound=Bound(max_drop=0.9))
    return purify(victim, Sources(train, held), method, Plan(runtime=CPU))


def command_line(capsys: Any) -> Said:
    """Return what runs a command, checks its exit code, and gives what it said."""

    def said(*words: Any, code: int = 0) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, words)))
        told = capsys.readouterr()
        assert stop.value.code == code, told
        return told.err if code else told.out

    return said


def purified_by(said: Said, victim: Path, data: Path, place: Path, figure: str) -> tuple[Path, str]:
    """Purify from the command line, verify, look for a figure; return the folder, what was said."""
    out, page = place / "out", place / "page.html"
    told = said("purify", victim, "--data", data, "--out", out, "--max-drop", "0.5",
                "--report", page, *COMPUTE, *HEALING, "-q")  # fmt: skip
    assert f"{figure}, test" in told
    assert figure in page.read_text("utf-8")
    assert "ok" in said("verify", out)
    return out, told
