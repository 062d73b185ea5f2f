"""Which copies of a shard are kept, written and given back, and when."""

from __future__ import annotations

import numpy as np
import pytest

from psdp.checkpoint import Snapshot
from psdp.servers.snapshots import Snapshots


class Shard:
    """Takes numbered copies and notes what becomes of them."""

    def __init__(self) -> None:
        self.version = 0
        self.done: list[tuple[str, int]] = []
        self.snapshots = Snapshots(self._take, self._write, self._recycle)

    def _take(self) -> Snapshot:
        self.done.append(("take", self.version))
        return Snapshot(self.version, 0, 0, {}, np.zeros(0), {})

    def _write(self, snapshot: Snapshot) -> None:
        self.done.append(("write", snapshot.version))

    def _recycle(self, snapshot: Snapshot) -> None:
        self.done.append(("recycle", snapshot.version))

    def take_done(self) -> list[tuple[str, int]]:
        done, self.done = self.done, []
        return done


@pytest.fixture
def shard() -> Shard:
    return Shard()


def test_a_copy_for_a_checkpoint_is_given_back_once_it_is_written(shard: Shard) -> None:
    shard.version = 4
    shard.snapshots.keep(4, hold=False, save=True)
    assert shard.take_done() == [("take", 4), ("write", 4)]
    assert not shard.snapshots.idle()
    assert shard.snapshots.held() == []
    shard.snapshots.written(4)
    assert shard.take_done() == [("recycle", 4)]
    assert shard.snapshots.idle()
    assert shard.snapshots.get(4) is None


def test_a_copy_for_an_evaluation_stays_until_it_is_released(shard: Shard) -> None:
    shard.version = 4
    shard.snapshots.keep(4, hold=True, save=False)
    kept = shard.snapshots.get(4)
    assert kept is not None
    assert kept.version == 4
    assert shard.snapshots.held() == [kept]
    shard.snapshots.release(4)
    assert shard.take_done() == [("take", 4), ("recycle", 4)]
    assert shard.snapshots.idle()


def test_a_copy_for_both_is_taken_and_written_once(shard: Shard) -> None:
    shard.version = 4
    shard.snapshots.keep(4, hold=True, save=True)
    shard.snapshots.keep(4, hold=True, save=True)
    shard.snapshots.written(4)
    assert shard.take_done() == [("take", 4), ("write", 4)]
    shard.snapshots.save(4)
    shard.snapshots.release(4)
    assert shard.take_done() == [("recycle", 4)]


def test_a_copy_released_while_it_is_written_stays_until_then(shard: Shard) -> None:
    shard.snapshots.keep(0, hold=True, save=True)
    shard.snapshots.release(0)
    assert shard.take_done() == [("take", 0), ("write", 0)]
    shard.snapshots.written(0)
    assert shard.take_done() == [("recycle", 0)]


def test_a_copy_that_turns_out_to_be_the_best_is_written_and_stays_until_its_release(
    shard: Shard,
) -> None:
    shard.snapshots.keep(0, hold=True, save=False)
    shard.snapshots.save(0)
    shard.snapshots.written(0)
    assert shard.take_done() == [("take", 0), ("write", 0)]
    assert [copy.version for copy in shard.snapshots.held()] == [0]
    shard.snapshots.release(0)
    assert shard.take_done() == [("recycle", 0)]
    assert shard.snapshots.idle()
