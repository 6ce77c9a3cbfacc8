"""What `speed.py` measures: one function a table, each returning rows of JSON values."""

from __future__ import annotations

import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import speed_reference as reference
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from headsweep.cost import peak_memory_mib
from headsweep.heal.fine_tune import FineTune
from headsweep.measure.accuracy import Measured, logits
from headsweep.measure.fastpass import FastPass, How, ShortCuts
from headsweep.measure.meter import Meter
from headsweep.model.anatomy import locate
from headsweep.model.mask import HeadMask
from headsweep.model.removal import remove
from headsweep.model.runtime import Runtime
from headsweep.prune.choice import Choice
from headsweep.prune.importance import gate_importance
from headsweep.prune.search import back_off, bisect, candidates, default_step, greedy
from headsweep.prune.view import DefenderView
from headsweep.seeding import fence
from headsweep.task.examples import forward
from headsweep.task.training import Job, Schedule, train
from headsweep.texts.encoded import Encoded
from headsweep.texts.task import CLASSIFICATION

Row = dict[str, Any]
NO_SHORT_CUTS = ShortCuts(False, False, False)


@dataclass(frozen=True)
class Setting:
    """A model with data: what every case gets."""

    model: PreTrainedModel
    train: Encoded
    validation: Encoded
    min_accuracy: float
    runtime: Runtime

    def view(self, runtime: Runtime | None = None) -> DefenderView:
        """Return a fresh view, which has measured nothing."""
        anatomy = locate(self.model)
        used = runtime or self.runtime
        return DefenderView(anatomy, self.train, self.validation, self.min_accuracy, 0, used)


class Whole(DefenderView):
    """A view that measures every mask on the whole validation set."""

    def decide(self, mask: HeadMask) -> Measured:
        """Return the exact accuracy."""
        return self.meter.accuracy(mask)

    def first_to_hold(self, masks: Sequence[HeadMask]) -> list[Measured]:
        """Measure masks in turn, whole, until one holds min accuracy."""
        found = []
        for mask in masks:
            found.append(self.decide(mask))
            if found[-1].holds(self.need):
                break
        return found


class Seconds(float):
    """Wall time; ``cpu`` is what the process computed, which other work disturbs less."""

    cpu: float = 0.0


def timed(run: Callable[[], Any]) -> tuple[Seconds, Any]:
    """Return the seconds that a call took, and what it returned."""
    begun, worked = time.perf_counter(), time.process_time()
    found = run()
    seconds = Seconds(time.perf_counter() - begun)
    seconds.cpu = time.process_time() - worked
    return seconds, found


def spread(seconds: Sequence[Seconds]) -> Row:
    """Return median, least and most of some times, in seconds, and the median of CPU seconds."""
    return {
        "seconds": round(statistics.median(seconds), 3),
        "least": round(min(seconds), 3),
        "most": round(max(seconds), 3),
        "cpu_seconds": round(cpu_of(seconds), 3),
        "runs": len(seconds),
    }


def cpu_of(seconds: Sequence[Seconds]) -> float:
    """Return the median of CPU seconds."""
    return statistics.median(one.cpu for one in seconds)


def interleaved(
    runs: int, cases: dict[str, Callable[[], Any]], once: Sequence[str] = ()
) -> dict[str, tuple[list[Seconds], Any]]:
    """Time every case ``runs`` times, in turns; those in ``once`` a single time."""
    found: dict[str, tuple[list[Seconds], Any]] = {name: ([], None) for name in cases}
    for number in range(runs):
        for name, run in cases.items():
            if number and name in once:
                continue
            seconds, result = timed(run)
            found[name] = ([*found[name][0], seconds], result)
            print(f"  {name}: {seconds:.2f} s", file=sys.stderr, flush=True)
    return found


def searches(setting: Setting, runs: int, reference_runs: int) -> list[Row]:
    """Time the search in every stage of the engine against the plain reference loop."""
    view = setting.view()
    scores = gate_importance(view, 500)
    order, step = candidates(scores, view), default_step(view.layout.units)
    batches = reference.padded(setting.validation)
    fp32 = replace(setting.runtime, measure_in="fp32")
    bare = replace(fp32, cache_mib=0)

    def plain() -> tuple[Any, ...]:
        gone, masks = reference.search(setting.model, batches, order, view.need, step)
        return tuple(sorted(gone)), masks, masks, "fp32"

    def engine(kind: type[DefenderView], search: Any, runtime: Runtime, short: ShortCuts) -> Any:
        own = replace_kind(setting.view(runtime), kind)
        own.__dict__["meter"] = Meter(own.anatomy, own.validation, runtime, short)
        choice = search(own, scores)
        passes = own.meter.passes.tokens_run / own.validation.tokens
        return choice.mask.pruned, own.meter.masks_run, passes, "bf16" if own.meter.bf16 else "fp32"

    cut = ShortCuts(True, True, False)
    cases: dict[str, Callable[[], Any]] = {
        "reference loop": plain,
        "no copies, sorted by length, whole set": partial(
            engine, Whole, greedy, bare, NO_SHORT_CUTS
        ),
        "+ early decision": partial(engine, DefenderView, greedy, bare, NO_SHORT_CUTS),
        "+ pruned heads and unread tokens left out": partial(
            engine, DefenderView, greedy, bare, cut
        ),
        "+ prefixes": partial(engine, DefenderView, greedy, fp32, ShortCuts()),
        "+ bisection (exact in fp32)": partial(engine, DefenderView, bisect, fp32, ShortCuts()),
    }
    if setting.runtime.measures_in_bf16():
        cases["+ bf16 (default)"] = partial(
            engine, DefenderView, bisect, setting.runtime, ShortCuts()
        )
    found: dict[str, tuple[list[Seconds], Any]] = {}
    for number in range(max(runs, reference_runs)):
        left = {
            name: run
            for name, run in cases.items()
            if number < (reference_runs if name == "reference loop" else runs)
        }
        for name, (seconds, result) in interleaved(1, left).items():
            found[name] = ([*found.get(name, ([], None))[0], *seconds], result)
    base, cpu_base = (
        statistics.median(found["reference loop"][0]),
        cpu_of(found["reference loop"][0]),
    )
    rows = []
    for name, (seconds, (pruned, masks, passes, precision)) in found.items():
        rows.append(
            {"case": name}
            | spread(seconds)
            | {
                "ratio": round(base / statistics.median(seconds), 1),
                "cpu_ratio": round(cpu_base / cpu_of(seconds), 1),
                "masks": masks,
                "validation_passes": round(passes, 2),
                "precision": precision,
                "pruned": len(pruned),
                "same_heads": pruned == found["reference loop"][1][0],
            }
        )
    return rows


def candidates_at_once(setting: Setting, runs: int) -> list[Row]:
    """Time a back-off over a third of the heads with 1, 2, 4 and 8 masks in one batch.

    From two thirds of the heads pruned, lowest score first; fp32.
    """
    runtime = replace(setting.runtime, measure_in="fp32")
    first = setting.view(runtime)
    order = candidates(gate_importance(first, 500), first)
    third = first.layout.units // 3

    def back_off_with(together: int) -> Any:
        view = setting.view(runtime)
        view.meter.together = together
        steps: list[Any] = []
        left = back_off(view, order[:third], order[third : 2 * third], steps)
        passes = view.meter.passes.tokens_run / view.validation.tokens
        return len(left), view.meter.masks_run, round(passes, 2)

    found = interleaved(runs, {f"{n} at once": partial(back_off_with, n) for n in (1, 2, 4, 8)})
    base = cpu_of(found["1 at once"][0])
    return [
        {"case": name}
        | spread(seconds)
        | {"cpu_ratio": round(base / cpu_of(seconds), 2)}
        | dict(zip(("left_pruned", "masks", "validation_passes"), result, strict=True))
        for name, (seconds, result) in found.items()
    ]


def replace_kind(view: DefenderView, kind: type[DefenderView]) -> DefenderView:
    """Return the same view as another class."""
    return kind(
        view.anatomy, view.train, view.validation, view.min_accuracy, view.seed, view.runtime
    )


def gemm_seconds(rows: int, inner: int, outer: int, dtype: torch.dtype) -> Seconds:
    """Return the least seconds that one Linear takes for a giga of operations at a shape."""
    x, w = torch.randn(rows, inner).to(dtype), torch.randn(outer, inner).to(dtype)
    calls = max(3, int(4e9 / (2 * rows * inner * outer)))
    times = []
    with torch.inference_mode():
        for _ in range(4):
            seconds, _ = timed(lambda: [torch.nn.functional.linear(x, w) for _ in range(calls)])
            times.append(seconds)
    giga = 2 * rows * inner * outer * calls / 1e9
    found = Seconds(min(times) / giga)
    found.cpu = min(one.cpu for one in times) / giga
    return found


def linear_seconds(setting: Setting, batch_size: int, dtype: torch.dtype) -> Seconds:
    """Return the seconds that the layers' Linears need for the set at the machine's own rate.

    Real tokens only, without padding; attention's own products are left out, so the limit is a
    little lower than what any pass can reach.
    """
    config = setting.model.config
    hidden, inner = config.hidden_size, config.intermediate_size
    tokens = setting.validation.tokens
    rows = max(1, batch_size * tokens // len(setting.validation))
    giga = 2 * tokens * config.num_hidden_layers * hidden / 1e9
    shapes = ((hidden, hidden, 4 * hidden), (hidden, inner, inner), (inner, hidden, inner))
    costs = [(gemm_seconds(rows, i, o, dtype), giga * share) for i, o, share in shapes]
    found = Seconds(sum(cost * work for cost, work in costs))
    found.cpu = sum(cost.cpu * work for cost, work in costs)
    return found


def one_mask(setting: Setting, pruned: Sequence[int], runs: int) -> list[Row]:
    """Time one pass over the validation set against the limit of the GEMM rate."""
    view = setting.view()
    everything, chosen = view.layout.everything(), view.layout.mask(pruned)
    rows_of = setting.validation.batches(32)

    def plain() -> None:
        with torch.inference_mode():
            for batch in rows_of:
                forward(setting.model, batch)

    def engine(mask: HeadMask, bf16: bool) -> Seconds:
        passes = FastPass(view.anatomy, setting.validation, replace(setting.runtime, cache_mib=0))
        order = passes.texts.lengths.argsort(stable=True)

        def whole() -> None:
            with passes.under(mask, bf16=bf16):
                for rows in order.split(passes.batch_size):
                    passes.run(rows, mask, How(bf16))

        return timed(whole)[0]

    cases: dict[str, tuple[Callable[[], Seconds], torch.dtype]] = {
        "plain length-sorted pass": (lambda: timed(plain)[0], torch.float32),
        "engine, all heads": (partial(engine, everything, False), torch.float32),
        f"engine, {len(pruned)} heads pruned": (partial(engine, chosen, False), torch.float32),
    }
    if setting.runtime.measures_in_bf16():
        cases["engine in bf16, all heads"] = (partial(engine, everything, True), torch.bfloat16)
        name = f"engine in bf16, {len(pruned)} heads pruned"
        cases[name] = (partial(engine, chosen, True), torch.bfloat16)
    times: dict[str, list[Seconds]] = {name: [] for name in cases}
    limits: dict[torch.dtype, list[Seconds]] = {}
    for _ in range(runs):
        for dtype in {dtype for _, dtype in cases.values()}:
            limits.setdefault(dtype, []).append(linear_seconds(setting, 16, dtype))
        for name, (run, _) in cases.items():
            times[name].append(run())
    done = {
        name: flops(setting, mask)
        for name, mask in (("all", everything), ("pruned", chosen), ("plain", None))
    }
    found = []
    for name, (_, dtype) in cases.items():
        kind = "plain" if "plain" in name else "all" if "all heads" in name else "pruned"
        limit, cpu_limit = min(limits[dtype]), min(one.cpu for one in limits[dtype])
        found.append(
            {"case": name}
            | spread(times[name])
            | {
                "limit_seconds": round(limit, 3),
                "share_of_limit": round(limit / min(times[name]), 3),
                "cpu_share_of_limit": round(cpu_limit / min(one.cpu for one in times[name]), 3),
                "gflop_done": round(done[kind] / 1e9, 1),
            }
        )
    return found


def how(bf16: bool) -> Any:
    """Return how to pass a batch."""
    from headsweep.measure.fastpass import How

    return How(bf16)


def flops(setting: Setting, mask: HeadMask | None) -> int:
    """Count the operations of a pass: plain (None), or the engine's under a mask."""
    anatomy = locate(setting.model)
    with FlopCounterMode(display=False) as counter:
        if mask is None:
            with torch.inference_mode():
                for batch in setting.validation.batches(32):
                    forward(setting.model, batch)
        else:
            short = ShortCuts(True, True, False)
            passes = FastPass(anatomy, setting.validation, setting.runtime, short)
            order = passes.texts.lengths.argsort(stable=True)
            before = counter.get_total_flops()
            with passes.under(mask):
                for rows in order.split(passes.batch_size):
                    passes.run(rows, mask, How())
            return counter.get_total_flops() - before
    return counter.get_total_flops()


def random_bert(
    layers: int, heads: int, hidden: int, examples: int, tokens: int, seed: int = 0
) -> tuple[PreTrainedModel, Encoded]:
    """Return a random BERT classifier and random texts labelled with its own predictions."""
    config = BertConfig(
        vocab_size=3000,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=512,
        num_labels=2,
    )
    with fence(seed):
        model = BertForSequenceClassification(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.add_(0.02 * torch.randn_like(parameter))
        lengths = (tokens * (0.4 + 1.2 * torch.rand(examples))).int().clamp(3, 512).tolist()
        ids = tuple(tuple(torch.randint(5, 3000, (n,)).tolist()) for n in lengths)
    unlabelled = Encoded(ids, (), (0,) * examples, 0, CLASSIFICATION)
    anatomy = locate(model)
    found = logits(anatomy, unlabelled, Runtime("cpu"))
    found = found - found.mean(0)  # both classes, whatever the bias of a random head
    with torch.no_grad():
        model.classifier.bias.sub_(logits(anatomy, unlabelled, Runtime("cpu")).mean(0))
    return model, Encoded(ids, (), tuple(found.argmax(-1).tolist()), 0, CLASSIFICATION)


def scaling(script: Path) -> list[Row]:
    """Measure searches by heads, by examples and by tokens, each in a process of its own."""
    shapes = [
        *((layers, 500, 25) for layers in (6, 12, 24)),
        *((6, examples, 25) for examples in (2000, 8000)),
        *((6, 500, tokens) for tokens in (12, 50, 100)),
    ]
    rows = []
    for layers, examples, tokens in shapes:
        found: Row = {"heads": 12 * layers, "examples": examples, "tokens": tokens}
        kinds = (
            ("plain", "fp32", "bf16") if Runtime("cpu").measures_in_bf16() else ("plain", "fp32")
        )
        for kind in kinds:
            told = [sys.executable, str(script), "--child", kind, str(layers), str(examples)]
            told += [str(tokens), str(torch.get_num_threads())]
            out = subprocess.run(told, capture_output=True, text=True, check=True).stdout
            found |= json.loads(out.strip().splitlines()[-1])
        for kind in kinds[1:]:
            allowed = 1.3 * found["plain_mib"] + found[f"{kind}_store_mib"]
            found[f"{kind}_share_of_goal"] = round(found[f"{kind}_mib"] / allowed, 2)
        rows.append(found)
        print(f"  {found}", file=sys.stderr, flush=True)
    return rows


def child(kind: str, layers: int, examples: int, tokens: int) -> Row:
    """Run one plain pass, or one search in a precision; return its part of the scaling table."""
    model, encoded = random_bert(layers, 12, 192, examples, tokens)
    runtime = Runtime("cpu") if kind == "plain" else Runtime("cpu", measure_in=kind)
    setting = Setting(model, encoded, encoded, 0.9, runtime)
    view = setting.view()
    if kind == "plain":
        seconds, _ = timed(lambda: logits(view.anatomy, encoded, setting.runtime))
        return {"plain_seconds": round(seconds, 2), "plain_mib": peak()}
    scores = torch.rand(view.layout.units, generator=torch.Generator().manual_seed(0))
    seconds, choice = timed(lambda: bisect(view, scores))
    meter = view.meter
    return {
        f"{kind}_seconds": round(seconds, 2),
        f"{kind}_mib": peak(),
        f"{kind}_store_mib": round(meter.passes.prefixes.bytes / (1 << 20), 1),
        f"{kind}_masks": meter.masks_run,
        f"{kind}_passes": round(meter.passes.tokens_run / encoded.tokens, 2),
        f"{kind}_pruned": len(choice.mask.pruned),
    }


def starts(runs: int) -> list[Row]:
    """Time a process that reads what ``purify`` reads, and ends: as Python does, and as we do."""
    read = "import headsweep.verbs.purifying"
    ours = f"from headsweep.quick import starting, started; starting(); {read}; started()"

    def of(program: str) -> Callable[[], Any]:
        return lambda: subprocess.run([sys.executable, "-c", program], check=True)

    timed_ = interleaved(runs, {"as Python starts": of(read), "as headsweep starts": of(ours)})
    rows: list[Row] = []
    for name, (seconds, _) in timed_.items():
        ratio = statistics.median(timed_["as Python starts"][0]) / statistics.median(seconds)
        told = {key: value for key, value in spread(seconds).items() if key != "cpu_seconds"}
        rows.append({"start": name, **told, "ratio": round(ratio, 2)})
    return rows


def peak() -> float:
    """Return the most memory that this process held, in MiB."""
    return round(peak_memory_mib() or 0.0, 1)


def importance(setting: Setting, runs: int) -> list[Row]:
    """Time the scores of all heads against training on the same examples."""
    examples = setting.train.take(range(min(320, len(setting.train))))
    small = replace(setting, train=examples, runtime=replace(setting.runtime, precision="fp32"))

    def learn() -> None:
        model = copy.deepcopy(setting.model)
        train(model, examples, Job(Schedule(1)), small.runtime)

    found = interleaved(runs, {"scores": lambda: gate_importance(small.view()), "training": learn})
    ratio = min(found["scores"][0]) / min(found["training"][0])
    rows = [{"case": name} | spread(seconds) for name, (seconds, _) in found.items()]
    rows[0]["ratio_to_training"] = round(ratio, 2)
    return rows


def healing(setting: Setting, pruned: Sequence[int], runs: int) -> list[Row]:
    """Time one epoch of healing over 320 examples against a plain loop with fixed padding."""
    examples = setting.train.take(range(min(320, len(setting.train))))
    fp32 = replace(setting.runtime, precision="fp32")

    def plain() -> None:
        reference.epoch(zeroed().model, reference.padded(examples))

    def zeroed() -> Setting:
        made = replace(setting, model=copy.deepcopy(setting.model), train=examples)
        anatomy = locate(made.model)
        remove(anatomy, anatomy.layout.mask(pruned))
        return made

    def heal(method: FineTune, runtime: Runtime) -> None:
        view = zeroed().view(runtime)
        method.heal(view, Choice(view.layout.mask(pruned)))

    cases: dict[str, Callable[[], Any]] = {
        "plain loop, padded to 128": plain,
        "sorted by length": partial(heal, FineTune(1, compact=False), fp32),
        "+ pruned heads left out": partial(heal, FineTune(1), fp32),
    }
    if setting.runtime.trains_in_bf16():
        cases["pruned heads left out, bf16 (default)"] = partial(heal, FineTune(1), setting.runtime)
    found = interleaved(runs, cases)
    first = found["plain loop, padded to 128"][0]
    base, cpu_base = statistics.median(first), cpu_of(first)
    return [
        {"case": name}
        | spread(seconds)
        | {
            "ratio": round(base / statistics.median(seconds), 1),
            "cpu_ratio": round(cpu_base / cpu_of(seconds), 1),
            "ms_an_example": round(1e3 * statistics.median(seconds) / len(examples), 1),
        }
        for name, (seconds, _) in found.items()
    ]
