"""What pruning saves: one model zeroed, compact, as ONNX and in eight bits; size and latency.

    python benchmarks/sizes.py --model MODEL --data TEXTS [--out FILE.json]

As many units are drawn from every layer as the share says; which ones does not matter here, and
nothing is healed. Every time is divided by that of the whole model in the same round, so that
a busy machine slows both: the median over rounds is printed. ``FLOPs`` is what the arithmetic
allows, counted by torch; ``reached`` is how much of that gain the compact model has. Not a test.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch.utils.flop_counter import FlopCounterMode

import headsweep
from headsweep.drafts import write_json
from headsweep.export import onnx_file
from headsweep.export.compact import compact_model
from headsweep.export.provenance import environment
from headsweep.model.loading import Reading, load_suspect
from headsweep.model.mask import HeadMask, Units
from headsweep.model.removal import remove
from headsweep.model.runtime import Runtime
from headsweep.seeding import stream
from headsweep.task.examples import encode, rows_of
from headsweep.texts.encoded import Batch, Encoded

CPU = Runtime("cpu")
BATCHES = {1: 16, 32: 1}  # texts a batch, and how many of such batches a round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.25, 0.5, 0.75])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    print("| units | gone | parameters | file | FLOPs | form | batch 1 | batch 32 | reached |")
    print("|---" * 9 + "|")
    for units in (Units(), Units(ffn=True)):
        for share in args.shares:
            rows += measured(args.model, args.data, units, share, args.rounds)
            if args.out is not None:  # as it goes: a large model takes minutes a row
                write_json(args.out, {"environment": environment("onnxruntime"), "rows": rows})


def drawn(layout: Any, share: float) -> HeadMask:
    """Return a mask that prunes this share of all units, drawn at random, as even as can be.

    Where a layer's few key/value groups have no such share, some layers lose one more.
    """
    gone: list[int] = []
    seen: dict[bool, tuple[int, int]] = {}  # of neurons: units so far, and how many of them went
    for row, part in zip(layout.rows, layout.slices, strict=True):
        count = part.stop - part.start
        units, went = seen.get(row.kind == "ffn", (0, 0))
        more = min(round(share * (units + count)) - went, count - 1)
        seen[row.kind == "ffn"] = units + count, went + more
        order = torch.randperm(count, generator=stream(0, f"sizes-{part.start}"))
        gone += [part.start + int(n) for n in order[:more]]
    return layout.mask(gone)


def measured(model: Path, data: Path, units: Units, share: float, rounds: int) -> list[Any]:
    whole = load_suspect(model, CPU, Reading(units=units))
    suspect = load_suspect(model, CPU, Reading(units=units))
    split = rows_of(data, whole).take(range(64))
    texts = encode(split, whole, 128)
    remove(suspect.anatomy, mask := drawn(suspect.anatomy.layout, share))
    with tempfile.TemporaryDirectory() as place:
        made = compact_model(suspect, mask, Path(place) / "compact", overwrite=False)
        small = headsweep.load(made.folder)
        exported = headsweep.export_onnx(
            made.folder, Path(place) / "onnx", int8=True, data=split, max_drop=0.99, progress=False
        )
        files = [opened(exported.folder / one.name) for one in exported.files]
        forms: dict[str, Callable[[Batch], Any]] = {
            "zeroed": plainly(suspect.model),
            "compact": plainly(small),
            "compact, ONNX": plainly(files[0]),
            "compact, eight bits": plainly(files[1]),
        }
        base = plainly(whole.model)
        times = {
            size: ratios(base, forms, texts, size, count, rounds) for size, count in BATCHES.items()
        }
        sizes = [made.bytes_before, made.bytes, files[0].size, files[1].size]
    flops = counted(whole.model, texts) / counted(small, texts)
    found = []
    for name, size in zip(forms, sizes, strict=True):
        row = {
            "units": "heads and FFN" if units.ffn else "heads",
            "gone": share,
            "parameters": made.parameters / made.parameters_before if name != "zeroed" else 1.0,
            "file": size / made.bytes_before,
            "flops": flops,
            "form": name,
            "batch_1": times[1][name],
            "batch_32": times[32][name],
            "reached": times[32][name] / flops if name == "compact" else None,
        }
        reached = "" if row["reached"] is None else f"{row['reached']:.0%}"
        print(
            f"| {row['units']} | {share:.0%} | {row['parameters']:.0%} | {row['file']:.0%} | "
            f"{flops:.2f} | {name} | {row['batch_1']:.2f} | {row['batch_32']:.2f} | {reached} |",
            flush=True,
        )
        found.append(row)
    return found


def opened(path: Path) -> onnx_file.OnnxFile:
    """Open an ONNX file with as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx_file.OnnxFile(path, session, tuple(one.name for one in session.get_inputs()))


def plainly(model: Any) -> Callable[[Batch], Any]:
    def answer(batch: Batch) -> Any:
        with torch.inference_mode():
            return model(**batch.inputs).logits

    return answer


def ratios(
    base: Callable[[Batch], Any],
    forms: dict[str, Callable[[Batch], Any]],
    texts: Encoded,
    size: int,
    count: int,
    rounds: int,
) -> dict[str, float]:
    """Return how many times faster each form is than the whole model, the median over rounds."""
    batches = [texts.batch(range(n * size, (n + 1) * size)) for n in range(count)]

    def took(answer: Callable[[Batch], Any]) -> float:
        begun = time.perf_counter()
        for batch in batches:
            answer(batch)
        return time.perf_counter() - begun

    for answer in (base, *forms.values()):
        took(answer)
    gains: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, answer in forms.items():
            took(base)  # what ran before may hold the cores for some milliseconds
            whole = took(base)
            took(answer)
            gains[name].append(whole / took(answer))
    return {name: statistics.median(gain) for name, gain in gains.items()}


def counted(model: Any, texts: Encoded) -> int:
    """Return the floating point operations of one batch of 32, as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(**texts.batch(range(32)).inputs)
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
