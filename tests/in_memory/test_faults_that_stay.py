"""A fault that comes again whenever the same is tried: the weights before it are saved all the
same, and the run ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, train

from psdp.checkpoint import find_checkpoint, read_manifest, read_weights
from psdp.transport.messages import ShardSaved

MISTAKE = ZeroDivisionError("a mistake")


@pytest.mark.parametrize(
    ("of", "rank", "servers", "error"),
    [
        ("update", 0, 1, MISTAKE),
        ("update", 0, 1, SystemExit(3)),
        ("update", 0, 1, KeyboardInterrupt()),
        ("average", 0, 2, MISTAKE),
        ("squares", 0, 2, SystemExit(3)),
        ("average", 1, 2, SystemExit(3)),
        ("squares", 1, 2, MISTAKE),
    ],
)
def test_the_weights_before_it_are_saved(
    tmp_path: Path, of: str, rank: int, servers: int, error: BaseException
) -> None:
    job: list[Training] = []

    def prepare(run: Training) -> None:
        job.append(run)
        serving = run.servers[rank]
        method = getattr(serving.shard, of)

        def failing(*arguments: Any) -> Any:
            if serving.progress.version >= 3:
                raise error
            return method(*arguments)

        setattr(serving.shard, of, failing)

    with pytest.raises(BaseException, match=r"the weights so far are in .*step-000003"):
        train(tmp_path, workers=2, servers=servers, prepare=prepare)
    assert job[0].ranks[rank].error is error
    signalled = isinstance(error, KeyboardInterrupt)
    assert job[0].summary["stopped_by"] == ("signal" if signalled else "error")
    kept = read_manifest(find_checkpoint(tmp_path))
    assert kept.state["version"] == job[0].summary["version"] == 3
    np.testing.assert_array_equal(read_weights(kept), job[0].weights)


def test_weights_are_saved_though_the_summary_cannot_be_written(tmp_path: Path) -> None:
    def prepare(run: Training) -> None:
        def failing(*_arguments: Any) -> None:
            raise ZeroDivisionError

        run.leader.recorder.finish = failing  # type: ignore[method-assign]
        run.leader.recorder.updated = failing  # type: ignore[method-assign]

    with pytest.raises(ZeroDivisionError, match=r"the weights so far are in .*step-000001"):
        train(tmp_path, prepare=prepare)
    assert find_checkpoint(tmp_path).name == "step-000001"


def test_a_shard_that_is_written_twice_is_not_two_shards(tmp_path: Path) -> None:
    run = Training(tmp_path, settings={"servers": 2})
    leader, other = run.leader, run.servers[1]
    for serving in run.servers:
        serving.keep(hold=False, save=True)
    (result,) = other.writer.close(timeout_s=30)
    file = result.file
    saved = ShardSaved(0, file["name"], file["bytes"], file["sha256"], 0.0)
    leader.keeping.saved(saved)
    leader.keeping.saved(saved)
    while 0 not in leader.keeping.paths:
        leader.serving.see_written()
    kept = read_manifest(leader.keeping.paths[0])
    np.testing.assert_array_equal(read_weights(kept), run.weights)


def test_a_version_that_is_saved_is_not_saved_again(tmp_path: Path) -> None:
    run = train(tmp_path)
    written = {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*")}
    assert run.leader.keeping.save_now(deadline=0.0) == find_checkpoint(tmp_path)
    assert {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*")} == written
