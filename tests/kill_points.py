"""A purification that is killed at drawn moments and given again: the same weights and manifest.

``python tests/kill_points.py OUT.tsv [--points 100] [--first 0]`` runs ``headsweep purify`` on a tiny model in
forked children, kills each with SIGKILL at a moment drawn over the whole of its run, once or twice,
gives the same command again and compares what it writes with a run that nobody killed: weights
byte by byte, the manifest but for times. Every fourth run replaces an older result. The table says
of each point when it was killed, what the next run went on after, and what was not as it must.
``test_kill_points.py`` holds a few points in every run of the tests.

What must hold: the exit code of that run; the same bytes; nothing left beside the result; and in the moment after
a kill there is an older result whole, the new one whole, or none.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WEIGHTS, MANIFEST = "model.safetensors", "headsweep.json"
TIMES = ("seconds", "cpu_seconds", "peak_memory_mib")  # what two runs may differ in
WRITTEN = (0, 1)  # a healing so hot may miss the bound: what then is written is as good to compare
WORDS = (
    "purify", "suspect", "--data", "clean.csv", "--device", "cpu", "--max-drop", "0.1",
    "--set", "step=2", "--heal", "epochs=0.5", "--heal", "lr=0.07", "--heal", "halvings=1",
    "--probe", "no", "--compute", "precision=fp32",
)  # fmt: skip


@dataclass
class Point:
    """One purification that was killed: when, and what came of it."""

    number: int
    kills: list[float] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def row(self) -> str:
        """Its line of the table."""
        kills = " ".join(f"{seconds:.2f}" for seconds in self.kills)
        told = "; ".join(self.wrong) or "as it must"
        return f"{self.number}\t{kills}\t{' / '.join(self.after)}\t{told}"


@dataclass(frozen=True)
class Whole:
    """A run that nobody killed, and an older one of another seed.

    Attributes:
        out, older: what they wrote.
        code: the exit code of the first.
        seconds: how long it took.

    """

    out: Path
    older: Path
    code: int
    seconds: float


TITLES = "point\tkilled after (s)\tthe next run went on after\twhat was wrong"


def timeless(form: Any) -> Any:
    """Return JSON values without times."""
    if isinstance(form, dict):
        return {key: timeless(value) for key, value in form.items() if key not in TIMES}
    return [timeless(value) for value in form] if isinstance(form, list) else form


def differences(one: Path, other: Path) -> list[str]:
    """Return in what two purified folders differ: weights by bytes, manifests but for times."""
    found = []
    if (one / WEIGHTS).read_bytes() != (other / WEIGHTS).read_bytes():
        found.append("the weights")
    forms = [timeless(json.loads((folder / MANIFEST).read_text())) for folder in (one, other)]
    keys = sorted({*forms[0], *forms[1]})
    return found + [key for key in keys if forms[0].get(key) != forms[1].get(key)]


def forked(work: Callable[[], Any], said: Path) -> int:
    """Do some work in a child, its output in a file; return its number at once."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8")
        sys.stderr = os.fdopen(2, "w", encoding="utf-8")
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 71
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a child; return its exit code, below 0 for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def purifying(home: Path, out: Path, *more: str) -> Callable[[], None]:
    """Return what runs the command; the manifest names the same command for every folder."""

    def work() -> None:
        os.chdir(home)
        sys.argv = ["headsweep", *WORDS]
        from headsweep.cli import main
        from headsweep.cli.options import out_console

        out_console.file = sys.stdout
        main([*WORDS, "--out", str(out), *more])

    return work


def prepared(home: Path) -> None:
    """Import all that the command needs, once, and write a suspect and its data."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    import torch

    torch.set_num_threads(1)
    from conftest import CPU, sentences, tiny_model, tiny_tokenizer
    from headsweep.cli import purify
    from headsweep.model.loading import prepare
    from headsweep.task.examples import encode
    from headsweep.task.training import Job, Schedule, train
    from headsweep.verbs import purifying as verb

    del purify, verb
    importlib.import_module("transformers.models.bert.modeling_bert")

    def write() -> None:
        tokenizer = tiny_tokenizer()
        suspect = prepare(tiny_model("bert"), tokenizer)
        encoded = encode(sentences(400, seed=1), suspect, 24)
        train(suspect.model, encoded, Job(Schedule(epochs=6, lr=2e-3)), CPU)
        suspect.model.save_pretrained(home / "suspect")
        tokenizer.save_pretrained(home / "suspect")

    assert ended(forked(write, home / "said")) == 0, (home / "said").read_text()
    clean = sentences(600, seed=2)
    rows = [f"{x},{y}" for x, y in zip(clean.texts, clean.labels, strict=True)]
    (home / "clean.csv").write_text("\n".join(["text,label", *rows]) + "\n", "utf-8")


def went_on_after(said: Path) -> str:
    """Return what a run said that it went on after."""
    text = said.read_text("utf-8")
    return text.partition("has finished: ")[2].partition("\n")[0] or "nothing"


def killed(point: Point, home: Path, runs: Whole) -> None:
    """Kill a run at this point, give it again, and note what is not as it must be."""
    whole, older, most = runs.out, runs.older, runs.seconds
    draw = random.Random(point.number)
    place = home / "at"
    place.mkdir()
    out, said = place / "out", home / "said"
    more = ("--overwrite",) if point.number % 4 == 3 else ()
    if more:
        shutil.copytree(older, out)
    for again in range(draw.choice((1, 1, 2))):
        child = forked(purifying(home, out, *more), said)
        point.kills.append(draw.uniform(0, most))
        time.sleep(point.kills[-1])
        os.kill(child, signal.SIGKILL)
        ended(child)
        if again:
            point.after.append(went_on_after(said))
        if out.exists() and differences(out, whole) and (not more or differences(out, older)):
            point.wrong.append("a result that is not whole")
    if out.exists() and not more and not differences(out, whole):
        point.after.append("the result")  # the same command refuses to replace it, and cleans up
        code, right = ended(forked(purifying(home, out), said)), 2
    else:
        code, right = ended(forked(purifying(home, out, *more), said)), runs.code
        point.after.append(went_on_after(said))
    if code != right:
        point.wrong.append(f"exit code {code}: {said.read_text('utf-8')[-300:]!r}")
    else:
        point.wrong += [f"another {name}" for name in differences(out, whole)]
    point.wrong += [f"left: {path.name}" for path in place.iterdir() if path != out]
    shutil.rmtree(place)


def points(numbers: Iterable[int], home: Path) -> Iterator[Point]:
    """Yield what came of every point; the same number is the same moments."""
    prepared(home)
    said, (whole, older) = home / "said", (home / "whole", home / "older")
    begun = time.monotonic()
    code = ended(forked(purifying(home, whole), said))
    assert code in WRITTEN, said.read_text("utf-8")
    runs = Whole(whole, older, code, time.monotonic() - begun)
    code = ended(forked(purifying(home, older, "--seed", "1"), said))
    assert code in WRITTEN, said.read_text("utf-8")
    for number in numbers:
        point = Point(number)
        killed(point, home, runs)
        yield point


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the points; write the table; return how many were not as they must."""
    reader = argparse.ArgumentParser()
    reader.add_argument("out", type=Path)
    reader.add_argument("--points", type=int, default=100)
    reader.add_argument("--first", type=int, default=0)
    asked = reader.parse_args(arguments)
    numbers, wrong = range(asked.first, asked.first + asked.points), 0
    with (
        tempfile.TemporaryDirectory(prefix="kill-points-") as temporary,
        asked.out.open("w") as table,
    ):
        print(TITLES, file=table)
        for point in points(numbers, Path(temporary)):
            print(point.row, file=table, flush=True)
            wrong += bool(point.wrong)
            if point.wrong:
                print(point.row)
    print(f"{asked.points} points, {wrong} not as they must")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main()))
