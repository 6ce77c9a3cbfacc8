"""Soak: one process purifies a small model hundreds of times, and its memory stays flat.

``python tests/soak.py OUT.tsv [--runs 500]`` writes what each run took and what the process holds
after it. It fails where the process holds more than 8 MiB more at the end than after a fifth of
the runs, or where a file or an open file is left over: in the folder for temporary files, in the
cache, or beside what was asked for.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import psutil

MOST_MIB = 8.0


def listed(*folders: Path) -> set[str]:
    """Return every file below these folders."""
    return {str(path) for folder in folders for path in folder.rglob("*") if path.is_file()}


def soaked(out: Path, runs: int, home: Path) -> list[str]:
    """Purify so often; write a row each; return what is wrong."""
    import headsweep
    from conftest import sentences, tiny_model, tiny_tokenizer

    suspect = home / "suspect"
    tiny_model("bert").save_pretrained(suspect)
    tiny_tokenizer().save_pretrained(suspect)
    data = sentences(60, seed=2)
    me, wrong, held = psutil.Process(), [], []
    asked = {"strategy": "random", "max_drop": 0.9, "device": "cpu", "seed": 3, "progress": False,
             "compute": {"batch_size": 32, "max_length": 24}, "heal": {"epochs": 1, "members": 1}}  # fmt: skip
    before: set[str] = set()
    with out.open("w") as table:
        print("run\tprocessor seconds\tMiB\topen files\tthreads", file=table)
        for run in range(1, runs + 1):
            begun = time.process_time()
            done = headsweep.purify(suspect, data, **asked)
            done.save(home / "purified")
            figures = headsweep.evaluate(home / "purified", data, device="cpu", progress=False)
            del done, figures
            shutil.rmtree(home / "purified")
            gc.collect()
            held.append(me.memory_info().rss / (1 << 20))
            row = (
                run,
                f"{time.process_time() - begun:.2f}",
                f"{held[-1]:.1f}",
                me.num_fds(),
                me.num_threads(),
            )
            print(*row, sep="\t", file=table, flush=True)
            now = listed(home)
            if run == 2:  # what is imported and kept once is there
                before, files = now, me.num_fds()
                gc.freeze()  # what is there by now is looked through no more
            elif run > 2 and (now - before or me.num_fds() > files):
                wrong.append(
                    f"run {run} left {sorted(now - before)[:3]}, {me.num_fds()} open files"
                )
                before, files = now, me.num_fds()
    early, late = held[max(0, runs // 5 - 1)], held[-1]
    grown = late - early
    print(f"{runs} runs; {early:.1f} MiB after {max(1, runs // 5)}, {late:.1f} MiB at the end")
    if grown > MOST_MIB:
        wrong.append(f"{grown:.1f} MiB more at the end than after a fifth of the runs")
    return wrong


def main() -> int:
    """Run it; say what is wrong; return how much that is."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("out", type=Path)
    ask.add_argument("--runs", type=int, default=500)
    asked = ask.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        home = Path(temporary)
        for name in ("tmp", "cache"):
            (home / name).mkdir()
        os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(home / "tmp"),
                       "XDG_CACHE_HOME": str(home / "cache")}  # fmt: skip
        tempfile.tempdir = None
        import torch

        torch.set_num_threads(1)
        wrong = soaked(asked.out, asked.runs, home)
    for one in wrong:
        print(one)
    print("nothing wrong" if not wrong else f"{len(wrong)} wrong")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(bool(main()))
