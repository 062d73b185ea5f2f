"""Messages that are well formed, and name what a job does not have."""

from __future__ import annotations

import re
from typing import Any

import pytest

from psdp.errors import ProtocolError
from psdp.modes import Pushed
from psdp.protocol import Work
from psdp.transport import messages as m
from psdp.transport.sense import Sense

TOTALS = m.Totals(0.0, 0.0, 0.0, 0.0, 0, 0)


def sense() -> Sense:
    """Return that of a job of two servers, and three ranks that compute for four workers."""
    return Sense(5, 2, [2, 3, 4], [1, 2, 3, 4], steps=30, pushes=[Pushed.GRADIENT])


def train(**changed: Any) -> m.Answer:
    order = {"worker": 4, "clock": 0, "batch": 0, "steps": 1, "units": 0, "push": Pushed.GRADIENT}
    return m.Answer(0, (m.Stop(1), m.Train(**order | changed)))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (m.HasLanded(5, 2), "HasLanded.worker 5, expected 1, 2, 3, 4"),
        (m.HasLanded(4, 1), "HasLanded.rank 1, expected 2, 3, 4"),
        (m.Left(5), "Left.rank 5, expected 0, 1, 2, 3, 4"),
        (m.Halt(1, (0, 7), (), (), 0), "Halt.lost 7, expected 0, 1, 2, 3, 4"),
        (m.Include((0, 4), (0.5, 0.5)), "Include.slots 4, expected 0, 1, 2, 3"),
        (m.AskWeights((1, 0)), "AskWeights.workers 0, expected 1, 2, 3, 4"),
        (m.Rehost((1,), (0,)), "Rehost.ranks 0, expected 2, 3, 4"),
        (
            m.PartialNorm(1, (1.0, -2.0)),
            "PartialNorm.squares (1.0, -2.0), expected a sum of 0 or more",
        ),
        (m.Gradient(1, Work(0, 0, 8, steps=0), TOTALS), "Work.steps 0, expected 1 to 30"),
        (train(steps=1 << 40), "Train.steps 1099511627776, expected 1 to 30"),
        (train(worker=9), "Train.worker 9, expected 1, 2, 3, 4"),
        (m.Signalled(0), "Signalled.number 0, expected 1 to 64"),
        (m.Include((0, 1), (1.0,)), "Include.weights (1.0,), expected 2 of them"),
        (m.Begin(1, (), (1, 2), (3, 4)), "Begin.shards 2, expected 0, 1"),
        (m.Begin(1, (), (1,), ()), "Begin.joined (), expected 1 of them"),
        (m.Rehost((1,), ()), "Rehost.ranks (), expected 1 of them"),
        (m.Answer(0, (m.Evaluate(1, 0, 2, 2, False),)), "Evaluate.part 2, expected less than 2"),
        (train(push=Pushed.CHANGE), "Train.push change, expected gradient"),
    ],
)
def test_what_a_job_does_not_have_is_named_with_who_sent_it(message: m.Message, words: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(f"rank 3 sent {words}")):
        sense().check(3, message)


@pytest.mark.parametrize(
    "message",
    [
        train(),
        m.Left(0),
        m.Begin(1, (0, 1), (1,), (4,)),
        m.PartialNorm(1, (float("nan"),)),
        m.PartialNorm(1, (1.0, -8e-18)),  # as exact sums are
        m.Spent(0, "matmul", 0, 0.0, 0.0, 0),
        m.Finish(),
    ],
)
def test_what_a_job_has_passes(message: m.Message) -> None:
    sense().check(3, message)
