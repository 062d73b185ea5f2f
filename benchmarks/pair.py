"""Two processes, each on a core of its own, train at the same time: joined by PyTorch's DDP, or
each alone. distributed.py starts this.

    python benchmarks/pair.py {ddp,torch,psdp} --size nano --corpus tokens.npy --cores 0 1 ...

Writes the seconds that each process took for its timed steps, and the losses of all its steps.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
from training import OPTIM, SEED, SIZES, PsdpTrainer, Size, Step, torch_step

from psdp.data.batches import Batches
from psdp.data.tokens import Tokens
from psdp.data.windows import Grid

PATIENCE_S = 120.0
"""How long one process waits for the other."""


@dataclass(frozen=True)
class Task:
    """What both processes do; ``meeting`` is a file that does not exist, by which DDP's meet."""

    kind: str
    size: Size
    corpus: Path
    warmup: int
    steps: int
    cores: tuple[int, int]
    meeting: Path


def ddp_step(task: Task, rank: int) -> Step:
    """Return one training step of a replica whose gradients DDP averages with the other's.

    The fastest settings for this model: gradients live in DDP's buckets, and since every step uses
    all parameters once the graph is declared static.
    """
    import torch
    import torch.distributed as dist
    from gpt_torch import make_gpt, make_step
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{task.meeting}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=PATIENCE_S),
    )
    model = make_gpt(task.size.model, task.size.vocab_size, SEED)
    replica = DistributedDataParallel(model, gradient_as_bucket_view=True, static_graph=True)
    return make_step(replica, OPTIM)


def make(task: Task, rank: int) -> Step:
    match task.kind:
        case "ddp":
            return ddp_step(task, rank)
        case "torch":
            return torch_step(task.size)
        case _:
            return PsdpTrainer(task.size).step


def train(task: Task, rank: int, gate: Barrier, pipe: Connection) -> None:
    """Run in a process of its own: train on the batches that worker ``rank`` of two has in psdp;
    send the seconds of the timed steps and all losses."""
    os.sched_setaffinity(0, {task.cores[rank]})
    step = make(task, rank)
    tokens = Tokens.of(np.load(task.corpus, mmap_mode="r"))
    batches = Batches(
        tokens,
        Grid(tokens.size, task.size.model.block_size, SEED),
        batch_size=task.size.batch_size,
        worker=rank,
        workers=2,
        partition="random",
        seed=SEED,
    )
    losses = [step(*batches.batch(number)[:2]) for number in range(task.warmup)]
    gate.wait(PATIENCE_S)
    start = time.perf_counter()
    for number in range(task.warmup, task.warmup + task.steps):
        losses.append(step(*batches.batch(number)[:2]))
    seconds = time.perf_counter() - start
    # Neither leaves while the other may still expect something of it.
    gate.wait(PATIENCE_S)
    pipe.send((seconds, losses))


def train_both(task: Task) -> dict[str, list[object]]:
    """Return ``seconds`` and ``losses`` of both processes.

    Raises:
        EOFError: one of them failed, and said why.
    """
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(2)
    pipes: list[Connection] = []
    for rank in range(2):
        pipe, far_end = context.Pipe()
        # Daemons: they end with this process, whatever ends it.
        context.Process(target=train, args=(task, rank, gate, far_end), daemon=True).start()
        far_end.close()
        pipes.append(pipe)
    left: dict[int, tuple[float, list[float]]] = {}
    while len(left) < len(pipes):
        # The first to fail is heard first, whichever it is.
        heard = wait([pipe for rank, pipe in enumerate(pipes) if rank not in left])
        left |= {rank: pipe.recv() for rank, pipe in enumerate(pipes) if pipe in heard}
    seconds, losses = zip(left[0], left[1], strict=True)
    return {"seconds": list(seconds), "losses": list(losses)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["ddp", "torch", "psdp"])
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--corpus", type=Path, metavar="NPY", required=True, help="tokens")
    parser.add_argument("--warmup", type=int, metavar="N", required=True, help="steps before")
    parser.add_argument("--steps", type=int, metavar="N", required=True, help="timed steps")
    parser.add_argument("--cores", type=int, nargs=2, metavar="CORE", required=True)
    parser.add_argument("--out", type=Path, metavar="JSON", required=True)
    options = parser.parse_args()
    task = Task(
        kind=options.kind,
        size=SIZES[options.size],
        corpus=options.corpus,
        warmup=options.warmup,
        steps=options.steps,
        cores=tuple(options.cores),
        meeting=options.out.with_suffix(".meeting").absolute(),
    )
    try:
        result = train_both(task)
    except EOFError:
        print("pair.py: a process failed; its traceback is above", file=sys.stderr)
        return 1
    options.out.write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
