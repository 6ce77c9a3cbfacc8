"""The leave-one-family-out benchmark never gives a defense the attack's own trigger."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from headsweep.probing import PROBES, TEMPLATES, check_apart

ROOT = Path(__file__).parent.parent
VICTIMS = [path for path in sorted((ROOT / "results" / "victims").glob("*.json"))
           if not path.stem.startswith("twin")]  # fmt: skip


@pytest.fixture
def guided(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import guided

    return guided


@pytest.mark.parametrize("path", VICTIMS, ids=lambda path: path.stem)
def test_conditions_of_every_victim_are_apart_from_it(guided, path):
    victim = guided.Victim(Path("victims") / path.stem, json.loads(path.read_text("utf-8")))
    made = victim.probers()
    own = TEMPLATES[victim.trigger["corpus"]] if victim.published else victim.family
    kin = set(guided.KIN.get(own, (own,)))
    assert not kin & set(made["without"].families)
    assert set(made["without"].families) == set(PROBES) - kin
    if "family" in made:
        assert kin & set(made["family"].families)
    if own in ("syntactic", "style", "opening", "substitution"):
        assert all(own not in prober.families for prober in made.values())
    for prober in made.values():
        check_apart(prober, victim.trigger)


def test_methods_without_probes_run_once(guided):
    record = {"trigger": {"name": "rare-word", "fields": {"words": "bb,cf"}}}
    victim = guided.Victim(Path("dirty-label-rare-word"), record)
    args = argparse.Namespace(
        heal_epochs=1, heal_on="clean", consistency=0.0, ffn=False, probes=["family", "without"]
    )
    assert guided._conditions(victim, "gradient", args) == [("no-probes", None)]
    names = [name for name, _ in guided._conditions(victim, "probe-guided", args)]
    assert names == ["family", "without"]
    args.heal_on = "probes"
    assert len(guided._conditions(victim, "gradient", args)) == 2
    assert len(guided._conditions(victim, "auto", args)) == 2
