"""Launchers that start several processes: the work is done once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from headsweep.cli.app import alone


def test_under_torchrun_the_work_is_done_once(trained_folder):
    words = ["--nproc-per-node", "2", "--master-port", "0", "--rdzv-backend", "c10d"]
    words += ["--rdzv-endpoint", "localhost:0", "-m", "headsweep", "inspect", trained_folder]
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words, "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["heads"] > 0  # two answers would be no JSON


@pytest.mark.parametrize(("rank", "works"), [(None, True), ("0", True), ("1", False), ("7", False)])
def test_only_the_first_process_works(rank, works, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    else:
        monkeypatch.delenv("RANK", raising=False)
    assert alone() is works
    assert "WORLD_SIZE" not in os.environ
