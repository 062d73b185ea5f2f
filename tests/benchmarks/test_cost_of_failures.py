"""What being ready for failures costs: whose speeds are compared, and the share that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from costs import READY, Pair, command, cost
from sides import Plan

from psdp.launch.options import parse


@pytest.mark.parametrize(("what", "ranks"), [("leases", (3, 3)), ("standby", (4, 3))])
def test_the_jobs_of_a_pair_differ_in_one_thing(
    tmp_path: Path, what: str, ranks: tuple[int, int]
) -> None:
    plan = Plan("nano", 2, 4, cores=(0, 1), folder=tmp_path)
    ready, plain = (parse(command(plan, tmp_path, "async", flags)[3:]) for flags in READY[what])
    assert (ready.ranks, plain.ranks) == ranks
    assert ("--standby" in ready.flags, "--standby" in plain.flags) == (what == "standby", False)
    assert (ready.lease_s > 0, plain.lease_s > 0) == (True, what == "standby")
    assert plain.flags[plain.flags.index("--mode") + 1] == "async"


def test_the_cost_is_the_share_of_the_speed_that_is_lost() -> None:
    pairs = [Pair(ready=99.0, plain=100.0), Pair(ready=196.0, plain=200.0), Pair(97.0, 100.0)]
    assert cost(pairs).value == pytest.approx(0.02)
