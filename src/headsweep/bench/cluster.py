"""The Ray engine: orders are tasks of a cluster, twins and victims are objects of its store.

A cell asks for its threads as CPUs and for its memory; a victim goes to the machine that needs it
through the object store, so no shared file system is needed for models (texts must be readable
under the same path, or come from the Hub, on every machine). What a lost machine was at runs again
elsewhere: Ray retries the task, and makes again the objects that were lost with it. The driver
alone writes results. Needs ``headsweep[ray]``, on every machine.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headsweep.bench import sources
from headsweep.bench.engines import Outcome, attempt
from headsweep.bench.orders import CellOrder, Order
from headsweep.bench.work import folder_of, known
from headsweep.errors import MissingExtra, UserError

RETRIES = 3  # of a task whose worker was lost
PATIENCE_SECONDS = 5.0  # until a port answers
JOIN_SECONDS = 60.0  # until the cluster behind it does
JOIN = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='error')"


def ray_module() -> Any:
    """Return Ray; raises UserError where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("--engine ray needs Ray", "ray", error) from error
    return ray


class Cluster:
    """Fills orders on a Ray cluster, or on one started on this machine for the run.

    Args:
        cache: the folder for shared steps, the same name on every machine.
        address: ``host:port``, ``ray://host:port`` or ``auto``; None: start one here.
        jobs: orders at once on one started here; on a cluster its CPUs decide.
        threads: of an order.
        needs_mib: memory of an order.

    Raises:
        UserError: the cluster cannot be reached, or no machine of it is large enough.

    """

    def __init__(
        self, cache: Path, address: str | None, jobs: int, threads: int, needs_mib: float
    ) -> None:
        self.ray, self.cache, self.threads = ray_module(), cache, threads
        _join(self.ray, address, jobs * threads)
        self.memory = int(needs_mib * (1 << 20))
        _check_size(self.ray, threads, self.memory)
        options = {"num_cpus": threads, "memory": self.memory, "max_retries": RETRIES}
        self.task = self.ray.remote(num_returns=2, **options)(fill)
        self.under_way: dict[Any, Order] = {}  # by the reference of its outcome
        self.made: dict[str, Any] = {}  # references of packed folders, by order

    @property
    def free(self) -> int:
        """How many more orders the cluster's CPUs can take, as it is now."""
        room = int(self.ray.cluster_resources().get("CPU", 0)) // self.threads
        return max(room, 1) - len(self.under_way)

    def submit(self, order: Order) -> None:
        """Hand the order to the cluster, with what it needs."""
        needs = [self.made[need.id] for need in order.needs]
        outcome, packed = self.task.remote(order, self.cache, *needs)
        self.under_way[outcome] = order
        self.made[order.id] = packed

    def wait(self) -> list[tuple[Order, Outcome]]:
        """Wait until an outcome is there."""
        ready, _ = self.ray.wait(list(self.under_way), num_returns=1)
        return [(self.under_way.pop(ref), self._outcome(ref)) for ref in ready]

    def _outcome(self, ref: Any) -> Outcome:
        try:
            found: Outcome = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            first = str(error).strip().split("\n")[0]
            return Outcome(error=f"lost {RETRIES + 1} times: {type(error).__name__}: {first}")
        return found

    def stop(self) -> None:
        """Cancel what is under way and leave the cluster."""
        for ref in self.under_way:
            self.ray.cancel(ref, force=True)
        self.under_way, self.made = {}, {}
        self.ray.shutdown()


def _join(ray: Any, address: str | None, cpus: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "error"}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        ray.init(num_cpus=cpus, include_dashboard=False, **quiet)
        return
    if address != "auto":
        _check_reachable(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _unreachable(address, str(error).strip().split("\n")[0]) from error


def _check_reachable(address: str) -> None:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise UserError(f"'{address}' is no address of a cluster", "--address HOST:PORT, or auto")
    try:
        socket.create_connection((host, port), PATIENCE_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error
    try:  # in a process of its own: Ray waits for minutes where something else has the port
        join = [sys.executable, "-c", JOIN, address]
        subprocess.run(join, capture_output=True, timeout=JOIN_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise _unreachable(address, f"no answer of Ray's within {JOIN_SECONDS:.0f} s") from error


def _unreachable(address: str, why: str) -> UserError:
    return UserError(
        f"no Ray cluster at '{address}': {why}",
        "start one with `ray start --head --port=6379` and give its HOST:6379, or leave "
        "--address out for one on this machine",
    )


def _check_size(ray: Any, threads: int, memory: int) -> None:
    """Check that some machine is large enough: a task that fits nowhere would wait for ever."""
    fits = [
        node["Resources"]
        for node in ray.nodes()
        if node["Alive"]
        and node["Resources"].get("CPU", 0) >= threads
        and node["Resources"].get("memory", 0) >= memory
    ]
    if not fits:
        ray.shutdown()
        raise UserError(
            f"no machine of the cluster has {threads} CPUs and {memory >> 20} MiB for a cell",
            "fewer threads in the recipe's [compute], or larger machines",
        )


def fill(order: Order, cache: Path, *needs: bytes) -> tuple[Outcome, bytes]:
    """Fill an order on a machine of the cluster; return its outcome and its packed folder."""
    for need, packed in zip(order.needs, needs, strict=True):
        unpack(packed, folder_of(need, cache))
    outcome = attempt(order, cache)
    if outcome.error or isinstance(order, CellOrder):
        return outcome, b""
    return outcome, packed_folder(folder_of(order, cache))


def packed_folder(folder: Path) -> bytes:
    """Return the files of a folder as one uncompressed archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", strict_timestamps=False) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return stream.getvalue()


def unpack(packed: bytes, folder: Path) -> None:
    """Put a packed folder where the cache keeps it, unless it is there."""
    if known(folder) is not None:
        return

    def extract(draft: Path) -> None:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(draft)

    shutil.rmtree(folder, ignore_errors=True)
    sources.place(folder, extract)
