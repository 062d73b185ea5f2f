"""A job whose ranks are threads: exchanges, and how one rank's end reaches the others."""

from __future__ import annotations

import time

import numpy as np
import pytest

from psdp.errors import DataError
from psdp.transport import Arrival, Lost
from psdp.transport.in_memory import Aborted, Killed
from psdp.transport.in_memory_world import InMemoryWorld, InMemoryWorlds
from psdp.transport.messages import AskSnapshot
from psdp.transport.world import World

pytestmark = pytest.mark.timeout(30)


def worlds(size: int) -> InMemoryWorlds:
    return InMemoryWorlds([f"host {rank % 2}" for rank in range(size)])


def test_every_rank_knows_its_number_its_host_and_how_many_there_are() -> None:
    seen: list[tuple[int, int, str]] = []

    def life(world: World) -> int:
        seen.append((world.rank, world.size, world.host))
        return world.rank * 10

    assert worlds(3).run(life, 5) == [0, 10, 20]
    assert sorted(seen) == [(0, 3, "host 0"), (1, 3, "host 1"), (2, 3, "host 0")]


def test_all_ranks_have_the_bytes_of_all_of_each_exchange() -> None:
    seen: list[list[list[bytes]]] = [[] for _ in range(3)]

    def life(world: World) -> int:
        for turn in range(20):
            seen[world.rank].append(world.exchange(b"%d of %d" % (turn, world.rank)))
        return 0

    assert worlds(3).run(life, 10) == [0, 0, 0]
    assert seen == [[[b"%d of %d" % (turn, rank) for rank in range(3)] for turn in range(20)]] * 3


def test_an_exchange_to_which_not_all_come_ends_in_time() -> None:
    def life(world: World) -> int:
        if world.rank == 1:
            time.sleep(0.2)
            return 0
        with pytest.raises(TimeoutError):
            world.exchange(b"", timeout_s=0.02)
        return 0

    assert worlds(2).run(life, 5) == [0, 0]


def test_messages_and_sums_go_between_the_ranks_that_are_named() -> None:
    def life(world: World) -> int:
        endpoint = world.endpoint([1 - world.rank] if world.rank < 2 else [])
        if world.rank == 0:
            endpoint.send(1, AskSnapshot(7))
            return 0
        vector = np.full(2, float(world.rank))
        reducer = world.reducer([1, 2])
        reducer.begin(vector)
        assert reducer.wait(5)
        assert vector.tolist() == [3.0, 3.0]
        if world.rank == 1:
            assert endpoint.receive(5) == Arrival(0, AskSnapshot(7))
        return 0

    assert worlds(3).run(life, 10) == [0, 0, 0]


def test_the_loss_of_a_rank_is_told_to_its_peers_alone() -> None:
    def life(world: World) -> int:
        endpoint = world.endpoint([0] if world.rank else [1, 2])
        world.exchange(b"")
        if world.rank == 2:
            assert isinstance(world, InMemoryWorld)
            world.die()
        event = endpoint.receive(5 if world.rank == 0 else 0.1)
        assert event == (Lost(2, "killed") if world.rank == 0 else None)
        return 0

    ends = worlds(3).run(life, 10)
    assert ends[:2] == [0, 0]
    assert isinstance(ends[2], Killed)


def test_a_dead_rank_can_neither_speak_nor_end_the_others() -> None:
    def life(world: World) -> int:
        endpoint = world.endpoint([1 - world.rank])
        if world.rank == 0:
            return 0 if endpoint.receive(5) == Lost(1, "killed") else 1
        assert isinstance(world, InMemoryWorld)
        try:
            world.die()
        except Killed:
            with pytest.raises(Killed):
                endpoint.send(0, AskSnapshot(1))
            world.abort(9)

    job = worlds(2)
    assert job.run(life, 10)[0] == 0
    assert job.status is None


@pytest.mark.parametrize("how", ["abort", "raise", "die"])
@pytest.mark.parametrize("waits", ["exchange", "receive", "sum"])
def test_no_rank_is_left_waiting_for_one_that_ends(how: str, waits: str) -> None:
    def life(world: World) -> int:
        endpoint, reducer = world.endpoint([]), world.reducer([0, 1])
        if world.rank == 1:
            if how == "abort":
                world.abort(6)
            if how == "raise":
                raise DataError("no text")
            assert isinstance(world, InMemoryWorld)
            world.die()
        if waits == "sum":
            reducer.begin(np.zeros(3))
        while True:
            if waits == "exchange":
                world.exchange(b"")
            elif waits == "receive":
                endpoint.receive(0.01)
            else:
                reducer.wait(0.01)

    job = worlds(2)
    if how == "die" and waits != "exchange":
        # As with MPI: who waits for nobody by name, or in a sum, is told by an endpoint if at all.
        with pytest.raises(TimeoutError, match=r"still running after 0.3 s:\nrank 0:\n(.|\n)*life"):
            job.run(life, 0.3)
        return
    ends = job.run(life, 10)
    assert isinstance(ends[0], Aborted)
    assert job.status == (6 if how == "abort" else 1)


def test_what_a_rank_was_at_when_it_ended_all_is_kept() -> None:
    def life(world: World) -> int:
        try:
            raise DataError("no text")
        except DataError as error:
            world.abort(error.exit_code)

    [end] = worlds(1).run(life, 5)
    assert isinstance(end, Aborted)
    assert isinstance(end.__context__, DataError)
