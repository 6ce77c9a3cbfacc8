r"""Time the search, one mask, scaling, scores and healing; print tables, write JSON.

    make speed
    python benchmarks/speed.py --model SUSPECT --train train.tsv --validation dev.tsv

Without a model: all-MiniLM-L6-v2 with a classifier trained for a minute on film reviews
(headsweep[demo]). Not a test: nothing fails when a figure is bad. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import speed_cases as cases
import torch
from speed_cases import Setting

from headsweep import demo
from headsweep.drafts import write_json
from headsweep.errors import UserError
from headsweep.export.provenance import environment
from headsweep.model.loading import Reading, load_suspect
from headsweep.model.runtime import Runtime
from headsweep.progress import Terminal
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, train
from headsweep.texts import reading as data

CASES = ("search", "bert-base", "together", "one-mask", "scaling", "scores", "heal", "start")


def main() -> None:
    if "--child" in sys.argv:
        kind, layers, examples, tokens, threads = sys.argv[2:]
        torch.set_num_threads(int(threads))
        print(json.dumps(cases.child(kind, int(layers), int(examples), int(tokens))))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--validation", type=Path)
    parser.add_argument("--min-accuracy", type=float)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--examples", type=int, help="of the validation data, at most")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--reference-runs", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=CASES, default=CASES)
    parser.add_argument("--out", type=Path, default=Path("results/speed"))
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    runtime = Runtime("cpu")
    told = machine()
    print(json.dumps(told, indent=1))
    setting, name = chosen(args, runtime)
    if args.examples:
        first = setting.validation.take(range(min(args.examples, len(setting.validation))))
        setting = replace(setting, validation=first)
    print(f"\n{name}; min accuracy {setting.min_accuracy}, {len(setting.validation)} examples\n")
    found: dict[str, Any] = {}
    for case in args.only:
        print(f"== {case}", file=sys.stderr, flush=True)
        if case == "search":
            found[case] = cases.searches(setting, args.runs, args.reference_runs)
        elif case == "bert-base":
            found[case] = cases.searches(bert_base(runtime), args.runs, 1)
        elif case == "together":
            found[case] = cases.candidates_at_once(setting, args.runs)
        elif case == "one-mask":
            found[case] = cases.one_mask(setting, spread_out(setting), 2 * args.runs)
        elif case == "scaling":
            found[case] = cases.scaling(Path(__file__))
        elif case == "scores":
            found[case] = cases.importance(setting, args.runs)
        elif case == "start":
            found[case] = cases.starts(3 * args.runs)
        else:
            found[case] = cases.healing(setting, spread_out(setting), args.runs)
        print(f"\n{case}\n\n{table(found[case])}\n", flush=True)
        args.out.mkdir(parents=True, exist_ok=True)
        form = {
            "setting": name,
            "machine": told,
            "load_after": os.getloadavg(),
            "rows": found[case],
        }
        write_json(args.out / f"{case}.json", form)


def spread_out(setting: Setting) -> list[int]:
    """Return two thirds of the heads, as many in every layer."""
    layout = setting.view().layout
    return [u for part in layout.slices for u in range(part.start, part.stop) if u % 3]


def chosen(args: Any, runtime: Runtime) -> tuple[Setting, str]:
    """Return the model and data given, or the packaged ones."""
    if args.model:
        suspect = load_suspect(args.model, runtime)
        train_set = encode(data.load(args.train, labels=suspect.labels), suspect, 128)
        validation = encode(data.load(args.validation, labels=suspect.labels), suspect, 128)
        bound = args.min_accuracy or 0.85
        return Setting(suspect.model, train_set, validation, bound, runtime), args.model.name
    try:
        folder, texts = demo.model_folder(), demo.film_reviews(0)
    except UserError as missing:
        print(f"{missing}\na random BERT of MiniLM's shape instead", file=sys.stderr)
        model, encoded = cases.random_bert(6, 12, 384, 872, 25)
        return Setting(model, encoded, encoded, args.min_accuracy or 0.9, runtime), "random BERT"
    suspect = load_suspect(folder, runtime, Reading(demo.LABELS, 0))
    train_set = encode(texts.attack, suspect, 128)
    train(suspect.model, train_set, Job(Schedule(1, 1e-4), 0), runtime, Terminal())
    validation = encode((texts.test + texts.victim).take(range(872)), suspect, 128)
    bound = args.min_accuracy or 0.75
    return Setting(suspect.model, train_set, validation, bound, runtime), "MiniLM, film reviews"


def bert_base(runtime: Runtime) -> Setting:
    """Return a random model of BERT-base's shape on 128 texts with its own predictions."""
    model, encoded = cases.random_bert(12, 12, 768, 128, 25)
    return Setting(model, encoded, encoded, 0.9, runtime)


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    name = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":")[1].strip() if lines else name
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg(),
        "bf16": bool(torch.cpu.get_capabilities().get("avx512_bf16")),
        "gemm_gflops_fp32": round(1 / cases.gemm_seconds(1600, 384, 1536, torch.float32), 1),
        "gemm_gflops_bf16": round(1 / cases.gemm_seconds(1600, 384, 1536, torch.bfloat16), 1),
    } | environment()


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
