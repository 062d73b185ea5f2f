"""Faults that come again whenever the same is tried, ranks that are gone, files that are asked for
twice: what can be saved is, once, and the run ends."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, before_gradient, die, train

from psdp.checkpoint import find_checkpoint, read_manifest, read_weights
from psdp.errors import PeerLost, RankFailed
from psdp.params import Array
from psdp.transport import Sending
from psdp.transport.messages import Gradient, Message, Push, ShardSaved

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
def test_the_weights_before_a_fault_are_saved(
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

    with pytest.raises(BaseException, match=r"the weights so far are in .*step-000003-v000003"):
        train(tmp_path, workers=2, servers=servers, prepare=prepare)
    assert job[0].ranks[rank].error is error
    signalled = isinstance(error, KeyboardInterrupt)
    assert job[0].summary["stopped_by"] == ("signal" if signalled else "error")
    kept = read_manifest(find_checkpoint(tmp_path))
    assert kept.state["version"] == job[0].summary["version"] == 3
    np.testing.assert_array_equal(read_weights(kept), job[0].weights)


def test_a_server_that_would_exit_again_waits_for_rank_0(tmp_path: Path) -> None:
    job: list[Training] = []

    def prepare(run: Training) -> None:
        job.append(run)
        serving, finish = run.servers[1], run.leader.recorder.finish
        take = serving.take_push

        def failing(peer: int, message: Push) -> bool:
            if serving.progress.version >= 3:
                raise SystemExit(3)
            return take(peer, message)

        def slowly(*arguments: Any) -> None:
            time.sleep(0.3)
            run.network.check(0)
            finish(*arguments)

        serving.take_push = failing  # type: ignore[method-assign]
        run.leader.recorder.finish = slowly  # type: ignore[method-assign]

    with pytest.raises(RankFailed, match=r"rank 1 failed .*\nthe weights so far are in"):
        train(tmp_path, workers=2, servers=2, prepare=prepare)
    assert job[0].summary["stopped_by"] == "error"


@pytest.mark.parametrize("servers", [1, 2])
def test_what_is_done_again_after_a_fault_is_not_done_twice(tmp_path: Path, servers: int) -> None:
    def prepare(run: Training) -> None:
        progress = run.servers[-1].progress
        advance = progress.advance

        def failing(*arguments: Any) -> None:
            progress.advance = advance  # type: ignore[method-assign]
            raise MISTAKE

        progress.advance = failing  # type: ignore[method-assign]

    common = {"workers": 2, "servers": servers, "max_steps": 1, "optimizer": "sgd"}
    with pytest.raises(Exception, match=r"the weights so far are in .*step-000001-v000001"):
        train(tmp_path / "fault", prepare=prepare, **common)
    kept = read_weights(read_manifest(find_checkpoint(tmp_path / "fault")))
    np.testing.assert_array_equal(kept, train(tmp_path / "none", **common).weights)


def test_weights_are_saved_though_nothing_can_be_received_any_more(tmp_path: Path) -> None:
    def prepare(run: Training) -> None:
        serving = run.leader.serving
        receive = serving.endpoint.receive

        def failing(timeout_s: float) -> Any:
            if serving.progress.version >= 3:
                raise MISTAKE
            return receive(timeout_s)

        serving.endpoint.receive = failing  # type: ignore[method-assign]

    with pytest.raises(ZeroDivisionError, match=r"the weights so far are in .*step-000003-v000003"):
        train(tmp_path, prepare=prepare)


def test_weights_are_saved_though_the_summary_cannot_be_written(tmp_path: Path) -> None:
    def prepare(run: Training) -> None:
        def failing(*_arguments: Any) -> None:
            raise ZeroDivisionError

        run.leader.recorder.finish = failing  # type: ignore[method-assign]
        run.leader.recorder.updated = failing  # type: ignore[method-assign]

    with pytest.raises(ZeroDivisionError, match=r"the weights so far are in .*step-000001-v000001"):
        train(tmp_path, prepare=prepare)
    assert find_checkpoint(tmp_path).name == "step-000001-v000001"


def test_of_a_server_that_is_gone_the_records_are_closed_before_any_rank_ends_all(
    tmp_path: Path,
) -> None:
    job: list[Training] = []

    def prepare(run: Training) -> None:
        job.append(run)
        finish = run.leader.recorder.finish

        def slowly(*arguments: Any) -> None:
            time.sleep(0.3)
            run.network.check(0)
            finish(*arguments)

        run.leader.recorder.finish = slowly  # type: ignore[method-assign]

        def killing(count: int) -> None:
            if count == 3:
                run.network.kill(1)

        before_gradient(run.worker(0), killing)

    with pytest.raises(PeerLost, match="server rank 1 is gone") as caught:
        train(tmp_path, workers=2, servers=3, prepare=prepare)
    assert not hasattr(caught.value, "__notes__")  # there is nothing whole to save
    assert job[0].summary["stopped_by"] == "error"
    assert job[0].summary["version"] == 3


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("reached", [0, 1, 2])
def test_a_push_that_has_not_reached_all_servers_does_not_count(
    tmp_path: Path, reached: int, mode: str
) -> None:
    """Its rank dies when it has sent it to some of them, as long before as it takes to arrive."""

    dies = threading.Event()

    def prepare(run: Training) -> None:
        worker = run.worker(0)
        send = worker.endpoint.send

        def sending(peer: int, message: Message, payload: Array | None = None) -> Sending:
            if isinstance(message, Gradient) and message.work.clock == 3 and peer == reached:
                time.sleep(0.05)
                dies.set()
                die(worker)
            return send(peer, message, payload)

        def leave_some(count: int) -> None:
            if count == 4:
                assert dies.wait(30)

        worker.endpoint.send = sending  # type: ignore[method-assign]
        before_gradient(run.worker(1), leave_some)

    common = {"workers": 2, "servers": 3, "mode": mode}
    run = train(tmp_path / "run", prepare=prepare, **common)
    assert (run.summary["stopped_by"], run.summary["moves"]) == ("budget", 1)
    assert sum(run.progress.clocks.values()) == run.job.gradients
    assert len({serving.progress.version for serving in run.servers}) == 1
    if mode == "sync":
        undisturbed = train(tmp_path / "undisturbed", **common)
        np.testing.assert_array_equal(run.weights, undisturbed.weights)


def test_a_shard_that_is_written_twice_is_not_two_shards(tmp_path: Path) -> None:
    run = Training(tmp_path, settings={"servers": 2})
    leader, other = run.leader, run.servers[1]
    for serving in run.servers:
        serving.giving.keep(hold=False, save=True)
    (result,) = other.giving.writer.close(timeout_s=30)
    file = result.file
    saved = ShardSaved(0, file["name"], file["bytes"], file["sha256"], 0.0)
    leader.keeping.saved(saved)
    leader.keeping.saved(saved)
    while 0 not in leader.copies.paths:
        leader.serving.see_written()
    kept = read_manifest(leader.copies.paths[0])
    np.testing.assert_array_equal(read_weights(kept), run.weights)


def test_a_version_that_is_saved_is_not_saved_again(tmp_path: Path) -> None:
    run = train(tmp_path)
    written = {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*")}
    assert run.leader.keeping.save_now(deadline=0.0) == find_checkpoint(tmp_path)
    assert {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*")} == written
