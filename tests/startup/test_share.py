"""Ranks that really open one another's memory share it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from saved_run import SavedRun

from psdp.errors import ConfigError
from psdp.startup.share import Links, MemoryOpened, Openings, OpenMemory, insist, links, make_memory
from psdp.transport.shared import open_memory


def test_ranks_that_open_each_others_memory_share_it(case: SavedRun) -> None:
    job = case.job_of(3)
    both = links(job, Openings([[1, 2], [0], [0]], []))
    assert (both.name, both.describe()) == ("shared", "vectors in shared memory")
    one = links(job, Openings([[1, 2], [0], []], ["rank 2 cannot open the memory of rank 0: no"]))
    assert (one.name, one.shared) == ("mixed", {(0, 1)})
    assert one.describe() == (
        "vectors of 1 of 2 server-worker pairs in shared memory, others as MPI messages "
        "(rank 2 cannot open the memory of rank 0: no)"
    )
    without = links(job, Openings([[], [], []], []), "worker 2 computes on a CPU")
    assert without.describe() == (
        "vectors as MPI messages, not in GPU memory (worker 2 computes on a CPU)"
    )


def test_vectors_on_gpus_are_told_from_those_on_hosts() -> None:
    pairs = [(0, 1), (0, 2)]
    kinds = [Links(frozenset(pairs[:count]), 2, None, on_devices=True) for count in range(3)]
    assert [kind.name for kind in kinds] == ["gpu messages", "gpu mixed", "gpu shared"]


def test_insisting_on_shared_memory_where_there_is_none_is_an_error(case: SavedRun) -> None:
    job = case.job_of(3, transport="shared")
    insist(job, Openings([[1, 2], [0], [0]], []))
    with pytest.raises(ConfigError, match=r"worker 2 share no memory \(they are on diff"):
        insist(job, Openings([[1], [0], []], []))
    with pytest.raises(ConfigError, match=r"share no memory \(rank 1 cannot"):
        insist(
            job,
            Openings([[], [], []], ["rank 1 cannot open the memory of rank 0: Permission denied"]),
        )


def test_only_ranks_of_the_same_host_name_look_at_one_anothers_memory(case: SavedRun) -> None:
    job = case.job_of(3)
    memories = [make_memory(job, rank, shard=None if rank else 0) for rank in range(3)]
    cards = []
    for rank, memory in enumerate(memories):
        assert memory is not None
        size = len(job.shards[rank]) if rank == 0 else job.table.size
        cards.append(memory.card(memory.zeros(size, "float32")))
    windows, opened = OpenMemory(job, 0, ["a", "a", "b"], cards, open_memory, must=False).act()
    assert (list(windows), opened) == ([1], MemoryOpened((1,), ()))
    windows, opened = OpenMemory(job, 1, ["a", "a", "a"], cards, open_memory, must=False).act()
    assert list(windows) == [0], "workers exchange nothing with one another"
    assert opened == MemoryOpened((0,), ())
    assert Openings([[1], [0], []], []).mutual(windows, 1) == windows
    assert Openings([[2], [0], []], []).mutual(windows, 1) == {}


def test_another_container_of_the_same_name_is_told_apart(case: SavedRun) -> None:
    """Its process numbers mean other processes here, or none."""
    job = case.job_of(2)
    memory = make_memory(job, 0, shard=0)
    assert memory is not None
    card = memory.card(memory.zeros(10, "float32"))
    assert card is not None
    another_process = replace(card, bell=replace(card.bell, pid=1 << 22))
    for elsewhere in (another_process, replace(card, name=f"psdp-{0:032x}")):
        step = OpenMemory(job, 1, ["a", "a"], [elsewhere, card], open_memory, must=False)
        windows, opened = step.act()
        assert windows == {}
        assert opened.refused[0].startswith("rank 1 cannot open the memory of rank 0: ")


def test_without_shared_memory_none_is_made(case: SavedRun) -> None:
    assert make_memory(case.job_of(2, transport="messages"), 0) is None


def test_all_agree_on_who_opened_whose_memory_or_that_not_all_did(case: SavedRun) -> None:
    facts = [MemoryOpened((1, 2), ()), MemoryOpened((0,), ()), MemoryOpened((), ("rank 2 cannot",))]

    def agreed(transport: str) -> Openings:
        job = case.job_of(3, transport=transport)
        return OpenMemory(job, 0, ["a"] * 3, [None] * 3, open_memory, transport == "shared").agree(
            dict(enumerate(facts))
        )

    assert agreed("auto") == Openings([(1, 2), (0,), ()], ["rank 2 cannot"])
    assert agreed("auto").pairs(case.job) == {(0, 1)}
    with pytest.raises(ConfigError, match=r"worker 2 share no memory \(rank 2 cannot\)"):
        agreed("shared")
