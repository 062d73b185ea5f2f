"""How fast vectors go between a server and its workers on one host: psdp against plain MPI.

    python benchmarks/transport.py [--quick] [--repeats 9] [--json FILE]

Every worker pushes a gradient to the one server and, when all of them are there, pulls weights of
the same size; the slowest worker's seconds count. This goes through psdp's own endpoints and shard,
with shared memory and with messages; the same bytes through plain Isend/Irecv and through Allreduce
(of the workers) and two memcpys of them (by all workers at once) are beside it. All of them take
turns in one job, which this script starts itself.

The second table is what an exchange of a small vector takes after the ranks have slept for a step's
time, as workers wait for one another in sync: there psdp sleeps too, while plain MPI keeps a core
busy for each rank that waits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from mpi4py import MPI

from psdp.backend import make_backend
from psdp.config import OptimConfig
from psdp.launch.mpirun import (
    find_launcher,
    mpirun_command,
    this_host,
    vendor_of,
    version_of,
)
from psdp.launch.options import Job
from psdp.modes import Pushed
from psdp.optim import make_optimizer
from psdp.params import Array, Part
from psdp.protocol import Work
from psdp.servers.rules import Rule, Rules
from psdp.servers.shard import Shard
from psdp.startup.facts import from_bytes, to_bytes
from psdp.transport import Arrival, Endpoint
from psdp.transport import messages as m
from psdp.transport.mpi import MpiEndpoint, MpiWorld
from psdp.transport.shared import MemoryCard, Neighbours, SharedMemory, open_memory

MB = 1_000_000
SIZES_MB = (1, 16, 64, 256)
QUICK_MB = (1, 16)
WORKERS = 4
STEP_S = 0.025
SMALL = 250
"""Elements of the vector in the second table: 1 KB."""

Exchange = Callable[[int], None]
"""Push and pull once; the argument numbers the round."""


@dataclass(frozen=True)
class Result:
    """Medians, in seconds, of one push and pull of ``size_mb`` by each of ``workers`` at once,
    ``gap_s`` after the last."""

    size_mb: float
    workers: int
    repeats: int
    gap_s: float
    shared_s: float
    messages_s: float
    isend_irecv_s: float
    allreduce_s: float
    two_memcpys_s: float

    @property
    def of_memcpys(self) -> float:
        return self.shared_s / self.two_memcpys_s


class Side:
    """What one rank holds: a server's shard, or a worker's gradient and weights, (P,) each."""

    def __init__(self, world: MpiWorld, comm: MPI.Intracomm, size: int) -> None:
        self.rank, self.workers = world.rank, range(1, comm.size)
        self.memory = SharedMemory(1, size, np.float32, print)
        self.own = self.memory.zeros(size, np.float32)
        self.own[...] = 1
        self.weights = np.ones(size, np.float32)
        self.other = np.ones(size, np.float32)
        # What a server holds with messages, and with shared memory.
        slots = len(self.workers) if self.rank == 0 else 0
        sgd = make_optimizer(
            OptimConfig(optimizer="sgd"), Part(range(size), 0), make_backend("cpu", "float32")
        )
        rules = Rules({Pushed.GRADIENT: Rule(sgd, lambda _steps: 0.0)})
        self.shards = [Shard(rules, self.own, slots) for _ in range(2)]
        cards = [
            from_bytes(MemoryCard, raw)
            for raw in _gather(comm, to_bytes(self.memory.card(self.own)))
        ]
        peers = self.workers if self.rank == 0 else [0]
        windows = {peer: open_memory(cards[peer]) for peer in peers}
        for slot in range(slots):
            self.shards[1].adopt(slot, windows[slot + 1].vector(range(size), np.float32))
        self.neighbours = Neighbours(self.memory, windows)
        comm.Barrier()


def _gather(comm: MPI.Intracomm, data: bytes) -> list[bytes]:
    lines = np.zeros((comm.size, 1024), np.uint8)
    comm.Allgather(np.frombuffer(data.ljust(1024), np.uint8), lines)
    return [line.tobytes() for line in lines]


def psdp_exchange(side: Side, endpoint: Endpoint, shard: Shard) -> Exchange:
    """Return a round through psdp's endpoints; each side sees that the other's bytes came."""

    def landing(peer: int, _message: m.Message) -> Array:
        return shard.slots[peer - 1] if side.rank == 0 else side.weights

    endpoint.landing = landing

    def heard() -> int:
        event = endpoint.receive(60.0)
        assert isinstance(event, Arrival), event
        return event.peer

    def serve(number: int) -> None:
        came = [heard() for _ in side.workers]
        assert all(slot[-1] == number for slot in shard.slots), "a gradient did not land"
        shard.weights.writable()[-1] = number
        for peer in sorted(came):
            order = m.Train(peer, number, number, 1, 0, Pushed.GRADIENT)
            message = m.Answer(number, (order,))
            shard.weights.reading(endpoint.send(peer, message, shard.weights.values))

    def work(number: int) -> None:
        side.own[-1] = number
        totals = m.Totals(0.0, 0.0, 0.0, 0.0, 0, 0)
        gradient = m.Gradient(side.rank, Work(number, number, 1), totals)
        push = endpoint.send(0, gradient, side.own)
        heard()
        assert endpoint.flush([push]) == []
        assert side.weights[-1] == number, "the weights did not land"

    return serve if side.rank == 0 else work


def mpi_exchange(side: Side, comm: MPI.Intracomm) -> Exchange:
    """Return a round through plain non-blocking MPI."""

    def serve(_number: int) -> None:
        slots = side.shards[0].slots
        MPI.Request.Waitall([comm.Irecv(slots[rank - 1], source=rank) for rank in side.workers])
        MPI.Request.Waitall([comm.Isend(side.own, dest=rank) for rank in side.workers])

    def work(_number: int) -> None:
        MPI.Request.Waitall([comm.Isend(side.own, dest=0), comm.Irecv(side.weights, source=0)])

    return serve if side.rank == 0 else work


@contextmanager
def exchanges(side: Side, comm: MPI.Intracomm) -> Iterator[dict[str, Exchange]]:
    """Yield every way to do a round, by the name of its field in :class:`Result`."""
    peers = list(side.workers) if side.rank == 0 else [0]
    messages = MpiEndpoint(comm.Dup(), peers)
    shared = MpiEndpoint(comm.Dup(), peers, side.neighbours)
    workers = comm.Split(int(side.rank > 0), side.rank)

    def allreduce(_number: int) -> None:
        if side.rank > 0:
            workers.Allreduce(side.own, side.weights)

    def two_memcpys(_number: int) -> None:
        if side.rank > 0:
            np.copyto(side.other, side.own)
            np.copyto(side.weights, side.other)

    yield {
        "shared_s": psdp_exchange(side, shared, side.shards[1]),
        "messages_s": psdp_exchange(side, messages, side.shards[0]),
        "isend_irecv_s": mpi_exchange(side, comm),
        "allreduce_s": allreduce,
        "two_memcpys_s": two_memcpys,
    }
    messages.close()
    shared.close()


def measure(
    world: MpiWorld, workers: int, size: int, repeats: int, gap_s: float = 0.0
) -> Result | None:
    """Return what rounds of vectors (size,) of float32 take; all ranks call this together, and
    those beyond the workers get None."""
    active = world.rank <= workers
    comm = MPI.Intracomm(world.comm.Split(int(active), world.rank))
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    if active:
        side = Side(world, comm, size)
        with exchanges(side, comm) as ways:
            for number in range(1 + repeats):
                for name, exchange in ways.items():
                    comm.Barrier()
                    time.sleep(gap_s * (world.rank > 0))
                    begin_s = time.perf_counter()
                    exchange(number)
                    took_s = np.array([time.perf_counter() - begin_s if world.rank > 0 else 0.0])
                    comm.Allreduce(MPI.IN_PLACE, took_s, MPI.MAX)
                    if number > 0:  # the first round finds no memory in place
                        seconds[name].append(float(took_s[0]))
    world.exchange(b"")  # sleeps, while a barrier would keep the cores busy
    if not active:
        return None
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return Result(size * 4 / MB, workers, repeats, gap_s, **medians)


def run_ranks(options: argparse.Namespace) -> int:
    """Be one rank of the job; rank 0 prints."""
    world = MpiWorld()
    try:
        _tables(world, options)
    except Exception:
        traceback.print_exc()
        world.abort(1)
    return 0


def _tables(world: MpiWorld, options: argparse.Namespace) -> None:
    def say(text: str) -> None:
        if world.rank == 0:
            print(text, flush=True)

    library = f"{world.library}, {os.cpu_count()} cores, medians of {options.repeats}"
    say(f"push + pull of every worker at once, milliseconds; {library}")
    say(
        f"{'MB':>5}{'workers':>9}{'shared':>10}{'messages':>10}{'Isend/Irecv':>13}"
        f"{'Allreduce':>11}{'2 memcpy':>10}   shared / 2 memcpy"
    )
    results: list[Result] = []
    for size_mb in QUICK_MB if options.quick else SIZES_MB:
        for workers in range(1, world.size):
            result = measure(world, workers, size_mb * MB // 4, options.repeats)
            if result is not None:
                results.append(result)
                say(f"{size_mb:5d}{_row(result)}{result.of_memcpys:10.2f}")
    say(f"\nthe same of 1 KB, {STEP_S * 1e3:g} ms after the last, milliseconds")
    for workers in range(1, world.size):
        result = measure(world, workers, SMALL, options.repeats * 3, STEP_S)
        if result is not None:
            results.append(result)
            say(f"{'1 KB':>5}{_row(result)}")
    if options.json and world.rank == 0:
        record: dict[str, Any] = {"mpi": world.library, "cores": os.cpu_count()}
        record["results"] = [asdict(result) for result in results]
        Path(options.json).write_text(json.dumps(record, indent=2) + "\n")


def _row(result: Result) -> str:
    allreduce = f"{result.allreduce_s * 1e3:.2f}" if result.workers > 1 else "-"
    return (
        f"{result.workers:9d}{result.shared_s * 1e3:10.2f}{result.messages_s * 1e3:10.2f}"
        f"{result.isend_irecv_s * 1e3:13.2f}{allreduce:>11}"
        f"{result.two_memcpys_s * 1e3:10.2f}"
    )


def launch(ranks: int) -> NoReturn:
    """Become mpirun, of this script with the same flags."""
    here = Path(__file__).resolve()
    launcher = find_launcher(Path(sys.prefix), os.environ.get("PATH", os.defpath))
    job = Job(ranks, None, ("-m", here.stem), (*sys.argv[1:], "--rank"))
    paths = [str(here.parent), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = mpirun_command(launcher, vendor_of(version_of(launcher)), job, this_host())
    os.execv(command[0], command)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1 and 16 MB only")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--workers", type=int, default=WORKERS, help="1 to so many (default 4)")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.rank:
        launch(options.workers + 1)
    return run_ranks(options)


if __name__ == "__main__":
    sys.exit(main())
