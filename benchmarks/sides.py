"""The jobs of a round, each run to its end: a psdp job, or two processes of pair.py."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from session import run_session
from training import OPTIM, SEED, SIZES, THREAD_VARIABLES, Size, batches

WORKERS = 2
START_S, STEP_S = 180.0, 20.0
"""What a job may take, for its start and for each step, before it is taken for stuck."""


class JobFailed(Exception):
    """A job ended badly, or not at all; the text shows what it printed."""


@dataclass(frozen=True)
class Plan:
    """What every job of a size does. ``folder`` holds its corpus, and what jobs leave."""

    name: str
    warmup: int
    steps: int
    cores: tuple[int, int]
    folder: Path

    @property
    def size(self) -> Size:
        return SIZES[self.name]

    @property
    def all_steps(self) -> int:
        return self.warmup + self.steps

    @property
    def corpus(self) -> Path:
        return self.folder / "tokens.npy"

    def write_corpus(self) -> None:
        """Write tokens (N,) enough for all steps of all workers."""
        text = batches(self.size)
        rows = [next(text)[0] for _ in range(WORKERS * (self.all_steps + 1))]
        np.save(self.corpus, np.concatenate(rows).ravel().astype(np.uint8))


def run(command: Sequence[str], plan: Plan, **variables: str) -> None:
    """Run a job.

    Raises:
        JobFailed: it did not end, or not with status 0.
    """
    timeout_s = START_S + STEP_S * plan.all_steps
    ended = run_session(command, timeout_s=timeout_s, env=os.environ | variables)
    if ended.status != 0:
        how = f"status {ended.status}" if ended.status is not None else f"no end in {timeout_s:g} s"
        raise JobFailed(f"{' '.join(command)}: {how}; it said:\n{ended.output}")


def psdp_command(plan: Plan, out: Path) -> list[str]:
    """Return the command of a job of one server and two workers, as a user would give it."""
    model = plan.size.model
    flags: dict[str, object] = {
        "mode": "sync",
        "n-layer": model.n_layer,
        "n-head": model.n_head,
        "n-embd": model.n_embd,
        "block-size": model.block_size,
        "batch-size": plan.size.batch_size,
        "vocab-size": plan.size.vocab_size,
        "corpus": plan.corpus,
        "max-steps": plan.all_steps,
        "log-every": plan.warmup,
        "val-fraction": 0,
        "eval-every": 0,
        "checkpoint-every": 0,
        "lr": OPTIM.lr,
        "lr-schedule": "constant",
        "warmup-steps": 0,
        "threads": 1,
        "seed": SEED,
        "out": out,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    ranks = str(1 + WORKERS)
    return [sys.executable, "-m", "psdp.launch", "-n", ranks, *words, "--quiet"]


def run_pair(kind: str, plan: Plan) -> tuple[list[float], list[float]]:
    """Run two processes of pair.py; return the seconds of each, and their mean loss by step."""
    with tempfile.TemporaryDirectory(dir=plan.folder) as folder:
        out = Path(folder) / "pair.json"
        flags = {"size": plan.name, "corpus": plan.corpus, "out": out}
        numbers = {"warmup": plan.warmup, "steps": plan.steps}
        words = [f"--{name}={value}" for name, value in (flags | numbers).items()]
        script = str(Path(__file__).with_name("pair.py"))
        run(
            [sys.executable, script, kind, *words, "--cores", *map(str, plan.cores)],
            plan,
            # Read when NumPy and PyTorch are imported, and by gloo.
            **dict.fromkeys(THREAD_VARIABLES, "1"),
            GLOO_SOCKET_IFNAME="lo",
        )
        left = json.loads(out.read_text())
    return left["seconds"], [statistics.fmean(pair) for pair in zip(*left["losses"], strict=True)]
