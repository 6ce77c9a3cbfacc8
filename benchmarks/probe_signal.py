r"""Do probes see the heads that the real trigger uses? A diagnosis that knows the trigger.

    python benchmarks/probe_signal.py CORPUS SUSPECTS results/guided/signal-syntactic.json syntactic

CORPUS and SUSPECTS as in ``suspects.py``. The flip contribution of every head is traced on the
real trigger (the *train* part of the published corpus, with its originals) and on every probe
family, those of the attack's own template or manner included, marked as such. Written: flips of
each family into each label, and the rank correlation (Spearman) of its contribution, of the mean
over families as ``probe-guided`` takes it, with and without kin, and of clean importance, with
the real one. Nothing here may be used to choose anything: a defender has no such figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr
from suspects import CORPORA, TARGET, TRIGGER_LABELS, _commit, _draw
from torch import Tensor

from headsweep import data
from headsweep.data import Split
from headsweep.export import environment, write_json
from headsweep.flips import Flips, flip_contribution
from headsweep.importance import gate_importance
from headsweep.loading import Runtime, Suspect, load_suspect
from headsweep.predict import encode
from headsweep.probes import Family, Probes
from headsweep.probing import RuleProber, apart_from, without
from headsweep.progress import Terminal
from headsweep.strategies.probe_guided import combined
from headsweep.triggers.paired import paired
from headsweep.view import DefenderView


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("suspects", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("kind", choices=list(TRIGGER_LABELS))
    parser.add_argument("--rows", type=int, default=400, help="training sentences to probe")
    parser.add_argument("--pairs", type=int, default=100)
    args = parser.parse_args()
    runtime, told = Runtime(), Terminal()
    suspect = load_suspect(args.suspects / args.kind, runtime)
    clean = _draw(data.load(args.corpus / "clean" / "train.tsv"), args.rows, 11)
    probes = RuleProber(seed=11).make(suspect, clean, runtime, told)
    flips = flip_contribution(_view(suspect, clean, probes, runtime), args.pairs)
    texts, real = _real(args.corpus, args.kind, suspect)
    oracle = flip_contribution(_view(suspect, texts, real, runtime), args.pairs)[TARGET]
    importance = gate_importance(_view(suspect, clean, probes, runtime))
    form = _form(args.kind, flips, oracle, importance)
    form |= {"skipped": dict(probes.skipped), "pairs": args.pairs, "rows": args.rows}
    args.result.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.result, form | {"environment": environment() | {"commit": _commit()}})


def _view(suspect: Suspect, split: Split, probes: Probes, runtime: Runtime) -> DefenderView:
    encoded = encode(split, suspect, runtime.max_length)
    told = Terminal()
    return DefenderView(suspect.anatomy, encoded, encoded, 0.0, 11, runtime, told, probes)


def _real(corpus: Path, kind: str, suspect: Suspect) -> tuple[Split, Probes]:
    """Return training texts that are not of the target, and the same with the real trigger."""
    clean = data.load(corpus / "clean" / "train.tsv")
    texts = clean.take(i for i, label in enumerate(clean.labels) if label != TARGET)
    files = paired(corpus / "clean" / "train.tsv", corpus / kind / "train.tsv")
    made = files.rewrite(texts.texts, 0)
    kept = [i for i, text in enumerate(made) if text]
    part = texts.take(kept)
    changed = Split(tuple(str(made[i]) for i in kept), part.labels)
    both = (encode(each, suspect, 128) for each in (part, changed))
    return part, Probes((Family("the real trigger", tuple(range(len(kept))), *both),))


def _form(kind: str, flips: list[Flips], oracle: Flips, importance: Tensor) -> dict[str, Any]:
    def against(scores: Tensor) -> float:
        return float(spearmanr(scores, oracle.contribution).statistic)

    own = {"corpus": CORPORA[kind]}
    sets = {
        "all": {one.family for one in flips},
        "apart": set(apart_from(own)),
        "without kin": set(apart_from(own)) & set(without([kind])),
    }
    means = {name: combined([f for f in flips if f.family in s])[0] for name, s in sets.items()}
    return {
        "suspect": kind,
        "real": {"flips": oracle.flips, "reverse": oracle.reverse},
        "families": [
            {
                "family": one.family,
                "own": one.family not in sets["apart"],
                "kin": one.family not in sets["without kin"],
                "flips": one.flips,
                "reverse": one.reverse,
                "spearman": against(one.contribution),
            }
            for one in flips
            if one.label == TARGET
        ],
        "spearman": {name: against(mean) for name, mean in means.items()}
        | {"clean importance": against(importance)},
        "real_contribution": oracle.contribution.tolist(),
        "contributions": {
            f"{one.family} into {one.label}": one.contribution.tolist() for one in flips
        },
        "importance": importance.tolist(),
    }


if __name__ == "__main__":
    main()
