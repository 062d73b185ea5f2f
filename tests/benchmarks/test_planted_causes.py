"""Which jobs have which cause planted, and when one is named right. Nothing is run here."""

from __future__ import annotations

from collections import Counter

import pytest
from regimes import Named, chosen, line, plants

from psdp.report.regimes import EXCHANGE_BOUND, LINK, RANDOM, SHORT, SLOW_UPDATE, STRAGGLER

CAUSES = {RANDOM, STRAGGLER, LINK, SLOW_UPDATE, EXCHANGE_BOUND, SHORT}


def test_forty_jobs_have_each_cause_several_times() -> None:
    count = Counter(plant.cause for plant in plants())
    assert count.total() == 40
    assert count.keys() == CAUSES
    assert min(count.values()) >= 6
    assert len({(plant.flags, plant.workers, plant.cores) for plant in plants()}) == 40


def test_some_of_each_or_of_some_causes_can_be_chosen() -> None:
    assert Counter(plant.cause for plant in chosen([], 2)) == dict.fromkeys(CAUSES, 2)
    assert {plant.cause for plant in chosen([LINK], None)} == {LINK}


@pytest.mark.parametrize(
    ("named", "right"),
    [
        ((LINK,), True),
        ((SHORT, LINK), True),
        ((LINK, RANDOM), False),
        ((SHORT,), False),
        ((), False),
    ],
)
def test_a_job_is_named_right_if_its_cause_is_and_no_other(
    named: tuple[str, ...], right: bool
) -> None:
    plant = chosen([LINK], 1)[0]
    told = Named(named, None)
    assert told.right(LINK) is right
    assert line(plant, told).endswith("WRONG") is not right
