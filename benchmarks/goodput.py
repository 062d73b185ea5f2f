"""What failures cost: tokens/s of a job that loses a worker every so often, as a share of the same
job undisturbed; of psdp with spares, and of torchft (DDP over gloo) with replicas that a supervisor
restarts.

    python benchmarks/goodput.py [--minutes 10] [--every 30] [--workers 4] [--rounds 1]

Both train the same model with the same batches a step, in float32, each process with one thread.
The victims are drawn from a seed among those that work, and killed by SIGKILL. psdp's job has a
spare rank for each; torchft starts a lost replica anew, which takes the weights from the others. A
round is four jobs, one after the other; the clock of each runs from its first step.

torchft is not installed with psdp[bench]: pip install torchft. Without it psdp is measured alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from failing import pid_of
from records import read_records
from session import end_session, members, start_session
from sides import Plan, psdp_command
from training import SIZES, THREAD_VARIABLES

HERE = Path(__file__).parent
START_S = 60.0
LIGHTHOUSE = ("--min_replicas", "1", "--heartbeat_timeout_ms", "1000", "--join_timeout_ms", "1000")
"""Of torchft: as quick as it stays steady on a machine whose cores are all taken."""


@dataclass(frozen=True)
class Task:
    """What all four jobs of a round do.

    Attributes:
        seconds: that each trains; ``moments_s`` of them at which one loses a worker.
    """

    size: str
    workers: int
    seconds: float
    moments_s: Sequence[float]
    dice: random.Random


@dataclass(frozen=True)
class Round:
    """Tokens/s of the jobs of a round; None of what is not installed."""

    psdp: float
    psdp_undisturbed: float
    torchft: float | None
    torchft_undisturbed: float | None

    @property
    def goodput(self) -> float:
        return self.psdp / self.psdp_undisturbed

    @property
    def torchft_goodput(self) -> float | None:
        if self.torchft is None or self.torchft_undisturbed is None:
            return None
        return self.torchft / self.torchft_undisturbed

    def __str__(self) -> str:
        text = f"psdp {self.goodput:.3f} ({self.psdp:.0f} of {self.psdp_undisturbed:.0f} tokens/s)"
        if self.torchft_goodput is not None:
            text += f", torchft {self.torchft_goodput:.3f}"
            text += f" ({self.torchft:.0f} of {self.torchft_undisturbed:.0f} tokens/s)"
        return text


def psdp_speed(task: Task, *, disturbed: bool) -> float:
    """Return the tokens/s of a job of psdp, with a spare for each worker that it loses."""
    losses = task.moments_s if disturbed else ()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        job = start(_psdp_command(task, Path(folder), run, len(losses)))
        try:
            await_first(lambda: bool(read_records(run)))
            hosts = {worker: worker for worker in range(1, task.workers + 1)}
            for _ in moments(losses):
                hosts |= {
                    record["worker"]: record["to"]
                    for record in read_records(run)
                    if record["kind"] == "move"
                }
                rank = task.dice.choice(sorted(set(hosts.values())))
                if (pid := pid_of(members(job.pid), rank)) is not None:
                    os.kill(pid, signal.SIGKILL)
            job.wait(task.seconds + START_S)
        finally:
            end_session(job)
        records = [record for record in read_records(run) if record["kind"] == "train"]
    first, last = records[0], records[-1]
    return float((last["tokens"] - first["tokens"]) / (last["time_s"] - first["time_s"]))


def _psdp_command(task: Task, folder: Path, run: Path, spares: int) -> list[str]:
    plan = Plan(task.size, warmup=5, steps=2, cores=(0, 1), folder=folder)
    plan.write_corpus()
    command = psdp_command(plan, run)
    command[command.index("-n") + 1] = str(1 + task.workers + spares)
    command[command.index("--max-steps") + 1] = "1000000"
    command += ["--virtual-workers", str(task.workers), "--max-time", f"{task.seconds:.0f}s"]
    return command


def torchft_speed(task: Task, *, disturbed: bool) -> float:
    """Return the tokens/s of a job of torchft, whose replicas are started again when lost."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as started:
        port = free_port()
        scripts = Path(sys.executable).parent
        lighthouse = start(
            [str(scripts / "torchft_lighthouse"), "--bind", f"[::]:{port}", *LIGHTHOUSE]
        )
        started.callback(end_session, lighthouse)
        until = time.time() + START_S + task.seconds
        files = [Path(folder) / str(number) for number in range(task.workers)]

        def replica(number: int) -> subprocess.Popen[bytes]:
            words = {"number": number, "lighthouse": f"http://localhost:{port}"}
            words |= {"size": task.size, "until": until, "out": files[number]}
            flags = [word for name, value in words.items() for word in (f"--{name}", str(value))]
            job = start([sys.executable, str(HERE / "torchft_replica.py"), *flags])
            started.callback(end_session, job, signal.SIGKILL)
            return job

        replicas = [replica(number) for number in range(task.workers)]
        await_first(lambda: all(file.exists() and file.stat().st_size for file in files))
        begin_s, before = time.time(), _batches(files)
        for _ in moments(task.moments_s if disturbed else ()):
            number = task.dice.randrange(task.workers)
            replicas[number].kill()
            replicas[number].wait()
            replicas[number] = replica(number)
        time.sleep(max(0.0, begin_s + task.seconds - time.time()))
        batches, seconds = _batches(files) - before, time.time() - begin_s
    return batches * SIZES[task.size].tokens_per_step / seconds


def _batches(files: Sequence[Path]) -> int:
    lines = [file.read_text().split("\n")[:-1] for file in files]
    return max(int(json.loads(some[-1])["batches"]) for some in lines if some)


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, whose processes have one thread each."""
    own = dict.fromkeys(THREAD_VARIABLES, "1") | {"GLOO_SOCKET_IFNAME": "lo"}
    return start_session(command, subprocess.DEVNULL, env=os.environ | own)


def await_first(there: Callable[[], bool]) -> None:
    """Wait until a job trains.

    Raises:
        TimeoutError: it does not.
    """
    deadline = time.monotonic() + START_S
    while not there():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"no step in {START_S:g} s")
        time.sleep(0.05)


def moments(losses: Sequence[float]) -> Iterator[float]:
    """Yield each moment when it has come, in seconds from now."""
    begin_s = time.monotonic()
    for moment_s in losses:
        time.sleep(max(0.0, begin_s + moment_s - time.monotonic()))
        yield moment_s


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def run_round(task: Task, *, peer: bool, backwards: bool) -> Round:
    """Run the jobs of a round."""
    speeds: dict[tuple[str, bool], float] = {}
    sides = {"psdp": psdp_speed} | ({"torchft": torchft_speed} if peer else {})
    jobs = [(name, disturbed) for disturbed in (False, True) for name in sides]
    for name, disturbed in reversed(jobs) if backwards else jobs:
        speeds[name, disturbed] = sides[name](task, disturbed=disturbed)
    return Round(
        speeds["psdp", True],
        speeds["psdp", False],
        speeds.get(("torchft", True)),
        speeds.get(("torchft", False)),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What failures cost.")
    parser.add_argument("--size", choices=SIZES, default="nano")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each job")
    parser.add_argument("--every", type=float, default=30.0, metavar="S", help="between failures")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    seconds = 60 * args.minutes
    count = int(seconds / args.every - 0.5)
    at = [args.every * (number + 0.5) for number in range(count + 1)]
    task = Task(args.size, args.workers, seconds, at, random.Random(args.seed))
    peer = importlib.util.find_spec("torchft") is not None
    rounds = []
    for number in range(args.rounds):
        rounds.append(run_round(task, peer=peer, backwards=number % 2 == 1))
        print(f"round {number}: {rounds[-1]}", flush=True)
    print(f"goodput: psdp {statistics.median(r.goodput for r in rounds):.3f}", end="")
    theirs = [r.torchft_goodput for r in rounds if r.torchft_goodput is not None]
    print(f", torchft {statistics.median(theirs):.3f}" if theirs else ", torchft not installed")
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(each) for each in rounds], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
