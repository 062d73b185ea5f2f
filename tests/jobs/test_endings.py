"""Whatever goes wrong on whichever rank: the weights so far are saved, the reason is recorded, all
ranks end, and the exit status says which rank's error it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import RANK, summary, train, weights, write_corpus

from psdp.checkpoint import find_checkpoint

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(60)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


def at_call(of: str, number: int, rank: int, error: str) -> str:
    """Return the code of psdp.worker in which a rank raises an error in its n-th call (from 1) of a
    method, named with its class and module."""
    module, kind, method = of.rsplit(".", 2)
    return f"""
import os, sys
from {module} import {kind}
from psdp.worker import main
calls, original = 0, {kind}.{method}
def failing(self, *arguments, **named):
    global calls
    calls += 1
    if calls == {number} and {RANK} == {rank}:
        raise {error}
    return original(self, *arguments, **named)
{kind}.{method} = failing
sys.exit(main())
"""


PLAIN = ("--with-ft", "none")
"""A worker that fails ends the job, under any MPI."""
ERROR = 'ZeroDivisionError("a mistake")'
SYNC, ASYNC = ("--mode", "sync"), ("--mode", "async")


@pytest.mark.parametrize(
    ("of", "number", "rank", "servers", "mode"),
    [
        ("psdp.servers.shard.Shard.update", 12, 1, 2, ASYNC),
        ("psdp.records.recorder.Recorder.updated", 12, 0, 2, SYNC),
        ("psdp.servers.leader.Leader.enact", 12, 0, 1, ASYNC),
        ("psdp.servers.follower.Follower.on_message", 60, 1, 2, SYNC),
        ("psdp.workers.exchange.Exchange.push", 12, 3, 2, SYNC),
    ],
)
def test_an_exception_on_any_rank_leaves_the_weights_so_far(
    folder: Path, of: str, number: int, rank: int, servers: int, mode: tuple[str, ...]
) -> None:
    ranks, code = servers + 2, at_call(of, number, rank, ERROR)
    flags = (*PLAIN, *mode, "--servers", str(servers), "--out", "run")
    job = train(folder, ranks, *flags, code=code)
    assert job.returncode == 1, job.stdout
    assert f"psdp: rank {rank} failed:" in job.stdout
    assert "ZeroDivisionError: a mistake" in job.stdout
    ended = summary(folder / "run")
    assert ended["stopped_by"] == "error"
    name = f"step-{ended['steps']:06d}-v{ended['version']:06d}"
    assert find_checkpoint(folder / "run").name == name
    assert ended["steps"] > 0
    assert np.isfinite(weights(folder / "run")).all()
    if mode == ASYNC and servers > 1:
        # Whole on all servers: it can be gone on from.
        again = train(folder, ranks, "--resume", "run", "--max-steps", str(ended["steps"] + 1))
        assert again.returncode == 0, again.stdout


@pytest.mark.parametrize(
    ("of", "rank", "error", "status"),
    [
        ("psdp.workers.exchange.Exchange.push", 3, "SystemExit(3)", 3),
        ("psdp.workers.exchange.Exchange.push", 3, "KeyboardInterrupt", 130),
        ("psdp.servers.serving.Serving.take", 0, "KeyboardInterrupt", 130),
        ("psdp.servers.serving.Serving.take", 1, "SystemExit('text')", 1),
    ],
)
def test_a_rank_that_exits_does_not_leave_the_others_waiting(
    folder: Path, of: str, rank: int, error: str, status: int
) -> None:
    code = at_call(of, 8, rank, error)
    job = train(folder, 4, *PLAIN, "--servers", "2", "--out", "run", code=code)
    assert job.returncode == status, job.stdout
    signalled = error == "KeyboardInterrupt" and rank == 0
    assert summary(folder / "run")["stopped_by"] == ("signal" if signalled else "error")
    assert find_checkpoint(folder / "run")


@pytest.mark.parametrize(
    ("of", "rank", "error"),
    [
        ("psdp.config.config.Config.resolved", 1, ERROR),
        ("psdp.config.config.Config.resolved", 0, "SystemExit(0)"),
        ("psdp.workers.worker.Worker.__init__", 1, "SystemExit(0)"),
        ("psdp.servers.leader.Leader.__init__", 0, "MemoryError"),
    ],
)
def test_an_error_before_the_first_message_ends_all_ranks_and_leaves_no_folder(
    folder: Path, of: str, rank: int, error: str
) -> None:
    job = train(folder, 2, "--out", "run", code=at_call(of, 1, rank, error))
    assert job.returncode != 0, job.stdout
    assert not (folder / "run").exists()
