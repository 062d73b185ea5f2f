"""The settings are the same on all ranks, and each rank knows where it runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from psdp.cast import Cast
from psdp.config import Config, settings
from psdp.errors import ConfigError
from psdp.startup.settings import (
    PER_RANK,
    Location,
    Settled,
    lend_cores,
    locate,
    same_settings,
    servers_are_waited_for,
)


def test_equal_settings_agree() -> None:
    flat = Config().resolved().flat()
    same_settings([flat, dict(flat), dict(flat)])


def test_a_rank_with_other_settings_is_named_with_both_values() -> None:
    flat = Config().resolved().flat()
    with pytest.raises(ConfigError) as refused:
        same_settings([flat, flat, flat | {"n_layer": 7}])
    assert str(refused.value) == (
        "rank 2 was started with --n-layer 7, rank 0 with 4; start every rank with the same "
        "settings"
    )


def test_hosts_may_differ_in_what_is_theirs() -> None:
    flat = Config().resolved().flat()
    other = flat | {"threads": 3, "device": "gpu", "kernels": "numpy", "corpus": ["/scratch/text"]}
    same_settings([flat, other])
    assert {"threads", "device", "kernels", "corpus", "val_corpus"} == PER_RANK


@pytest.mark.parametrize("name", sorted({field.name for _, field in settings()} - PER_RANK))
def test_every_other_setting_is_compared(name: str) -> None:
    flat = Config().resolved().flat()
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} "):
        same_settings([flat, flat | {name: "something else"}])


def told(host: str, *cores: int, threads: int = 0) -> Settled:
    return Settled({"threads": threads}, host, "a processor", 2**30, cores, None)


def locations(*facts: Settled) -> list[tuple[int, int]]:
    """Return the number on its host and the threads of each rank."""
    found = [locate(facts, rank) for rank in range(len(facts))]
    assert [at.host for at in found] == [fact.host for fact in facts]
    return [(at.local_rank, at.threads) for at in found]


def test_what_a_host_has_is_that_of_all_its_ranks() -> None:
    facts = told("a", 0, 1), told("a", 1, 2), told("b", 0)
    assert [locate(facts, rank).cores for rank in range(3)] == [3, 3, 1]
    limited = replace(facts[0], cpu_quota=1.5)
    assert locate([limited, *facts[1:]], 0).cores == 1.5
    assert locate(facts, 2).processor == "a processor"
    assert locate(facts, 2).memory_bytes == 2**30


def test_ranks_are_numbered_and_share_cores_on_each_host() -> None:
    four, two = told("a", 0, 1, 2, 3), told("b", 0, 1)
    assert locations(four, two, four, two) == [(0, 2), (0, 1), (1, 2), (1, 1)]


def test_a_rank_that_waits_leaves_its_share_to_others() -> None:
    facts = [told("a", 0, 1, 2, 3)] * 3
    found = [locate(facts, rank, spares=[2]) for rank in range(3)]
    assert [(at.local_rank, at.threads) for at in found] == [(0, 2), (1, 2), (2, 1)]


def test_a_rank_alone_on_its_host_has_all_cores() -> None:
    assert locations(told("a", 0), told("b", 0, 1, 2)) == [(0, 1), (0, 3)]


def test_a_rank_that_asks_for_threads_has_them_and_the_others_their_share() -> None:
    facts = told("a", 0, 1), told("a", 0, 1, threads=5), told("a", 0, 1)
    assert locations(*facts) == [(0, 1), (1, 5), (2, 1)]


@pytest.mark.parametrize(
    ("given", "waits"),
    [
        ({"optimizer": "muon"}, True),
        ({"optimizer": "adamw"}, False),
        ({"optimizer": "muon", "mode": "async"}, False),
        ({"optimizer": "muon", "mode": "local"}, False),
        ({"optimizer": "muon", "threads": 1}, False),
        ({"optimizer": "muon", "overlap": True}, False),
    ],
)
def test_servers_have_the_cores_of_workers_that_wait_for_them(
    given: dict[str, Any], waits: bool
) -> None:
    assert servers_are_waited_for(Config.from_flat(given).resolved()) is waits


def test_holders_on_a_host_share_its_cores() -> None:
    config = Config.from_flat({"servers": 2, "standby": True, "optimizer": "muon"})
    located = [
        Location(host, 0, 1, "a processor", cores, 2**30)
        for host, cores in (("a", 8), ("a", 8), ("a", 8), ("b", 2), ("b", 2), ("b", 2))
    ]
    threads = [at.threads for at in lend_cores(Cast(config, 6), located)]
    assert threads == [4, 4, 1, 1, 1, 1]
