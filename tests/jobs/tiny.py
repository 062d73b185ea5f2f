"""Starting real training jobs on tiny models, and reading what they left."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
from mpi import run_job

from psdp.checkpoint import find_checkpoint, read_manifest, read_weights

TINY = (
    *("--n-layer", "2", "--n-head", "2", "--n-embd", "32", "--block-size", "16"),
    *("--batch-size", "2", "--max-steps", "20", "--eval-batches", "4", "--lr", "0.01"),
)

RANK = 'int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK")))'
"""Code for the rank that runs it, under either MPI."""


def at_gradient(number: int, rank: int, action: str) -> str:
    """Return the code of psdp.worker in which a rank does something before it computes its gradient
    of this number, from 1; ``action`` may change that gradient's ``scale``."""
    return f"""
import os, sys
from dataclasses import replace
from psdp.nn.models.decoder import DecoderModel
from psdp.worker import main
calls, compute = 0, DecoderModel.add_gradient
def add_gradient(self, batch, step):
    global calls
    calls, scale = calls + 1, step.scale
    if calls == {number} and {RANK} == {rank}:
        {action}
    return compute(self, batch, replace(step, scale=scale))
DecoderModel.add_gradient = add_gradient
sys.exit(main())
"""


def write_corpus(path: Path, words: int = 4000) -> Path:
    """Write text that a tiny model can learn something of, UTF-8 beyond ASCII included."""
    rng = np.random.default_rng(7)
    vocabulary = [
        "the ",
        "parameter ",
        "server ",
        "worker ",
        "pushes ",
        "梯度 ",
        "pulls ",
        "权重。\n",
    ]
    path.write_text("".join(rng.choice(vocabulary, words)), encoding="utf-8")
    return path


def train(
    cwd: Path, ranks: int, *flags: str, code: str = "psdp.worker", timeout_s: float = 60
) -> CompletedProcess[str]:
    """Run a job in ``cwd`` with the tiny settings, on its corpus.txt unless the flags name another
    corpus; later flags win.

    ``code`` is that of a module which ends in psdp.worker's main, with something in its way.
    """
    corpus = () if "--corpus" in flags else ("--corpus", "corpus.txt")
    return run_job(ranks, code, *corpus, *TINY, *flags, cwd=cwd, timeout_s=timeout_s)


def summary(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return record


def metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def weights(path: Path) -> Any:
    return read_weights(read_manifest(find_checkpoint(path)))


KILLED, RAISES = "os.kill(os.getpid(), 9)", "raise RuntimeError('a mistake')"

_FAILS = """
import os, sys
from psdp.servers.serving import Serving
from psdp.worker import main
turn, turns, failing = Serving.turn, 0, {FAILING}
def turning(self, *arguments):
    global turns
    turns += 1
    if turns == failing.get(self.endpoint.rank):
        {HOW}
    return turn(self, *arguments)
Serving.turn = turning
sys.exit(main())
"""


def failing(turns: dict[int, int], how: str = KILLED) -> str:
    """Return the code of a job of which these ranks, that hold shards, fail in these turns."""
    return _FAILS.replace("{FAILING}", repr(turns)).replace("{HOW}", how)
