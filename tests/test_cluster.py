"""The Ray engine on a cluster of two machines of one CPU each, one of which dies in the middle."""

from __future__ import annotations

import json
import socket
import time

import pytest

from headsweep.bench import cluster, harness
from headsweep.bench.grid import read_grid
from headsweep.bench.results.store import Store
from headsweep.errors import UserError
from headsweep.progress import Silent
from test_bench import FLEETING, SMOKE

ray = pytest.importorskip("ray", reason="headsweep[ray] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
NEEDS_MIB = 300


@pytest.fixture
def two_machines():
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "memory": 1 << 30, "object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args=machine | {"include_dashboard": False})
    other = made.add_node(**machine)
    yield made, other
    ray.shutdown()
    made.shutdown()


def test_a_lost_machine_changes_no_result(two_machines, smoke_results, tmp_path):
    made, other = two_machines
    lost, done = [], []

    def lose_one(cell, form):
        done.append(cell.id)
        if not lost:
            lost.append(True)
            made.remove_node(other, allow_graceful=False)

    cache = tmp_path / "cache"
    found = harness.plan(read_grid(SMOKE), Store(tmp_path / "r"), cache, "*s12-[nrf]*", False)
    engine = cluster.Cluster(cache, made.address, 2, 1, NEEDS_MIB)
    assert engine.free == 2
    run = harness.Run(Store(tmp_path / "r"), engine, Silent(), watch=lose_one)
    tally = run.run(found.missing)
    assert lost
    assert (sorted(tally.done), tally.failed) == (sorted(cell.id for cell in found.missing), {})
    for name in tally.done:
        here, there = (
            json.loads((folder / f"{name}.json").read_text())
            for folder in (tmp_path / "r", smoke_results)
        )
        for key in FLEETING:
            here.pop(key, None), there.pop(key, None)
        assert here == there


def test_a_cluster_that_cannot_be_reached_is_said(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nothing answers there
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match="no Ray cluster at"):
            cluster.Cluster(tmp_path, f"127.0.0.1:{port}", 1, 1, NEEDS_MIB)
    with pytest.raises(UserError, match="is no address"):
        cluster.Cluster(tmp_path, "nonsense", 1, 1, NEEDS_MIB)


def test_a_port_that_is_not_rays_is_said_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "JOIN_SECONDS", 4)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        begun = time.monotonic()
        with pytest.raises(UserError, match="no answer of Ray's within"):
            cluster.Cluster(tmp_path, f"127.0.0.1:{other.getsockname()[1]}", 1, 1, NEEDS_MIB)
    assert time.monotonic() - begun < 30


def test_folders_travel_whole(tmp_path):
    folder, there = tmp_path / "a", tmp_path / "cache" / "b"
    folder.mkdir()
    (folder / "record.json").write_text('{"weights": {}}')
    (folder / "x.bin").write_bytes(bytes(range(256)))
    (folder / "deeper").mkdir()
    (folder / "deeper" / "y.bin").write_bytes(b"y")
    packed = cluster.packed_folder(folder)
    there.mkdir(parents=True)
    (there / "record.json").write_text("{")  # a broken copy is replaced
    cluster.unpack(packed, there)
    assert files(there) == files(folder)
    assert len(files(there)) == 3


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
