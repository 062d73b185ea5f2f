"""Tasks of a user's own: what is none is refused, and all ranks must have made the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from psdp.config import Config
from psdp.errors import ConfigError, DataError
from psdp.params import ParamSpec, ParamTable
from psdp.startup.making import MakeTask, digest_of
from psdp.task import Measured, NumpyTask, Share, Task

CONFIG = Config().resolved()


class Mean(NumpyTask):
    """The mean of some numbers."""

    table = ParamTable([ParamSpec("mean", (2,))])
    units_per_batch = 4

    def __init__(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self, name, value)

    def batch(self, share: Share, number: int) -> Any:
        return share.rows(number, 4, of=100)

    def add_gradient(self, weights: Any, gradient: Any, batch: Any) -> float:
        gradient["mean"] += weights["mean"] - batch.mean()
        return 0.0


def step(task: Any, rank: int = 1, config: Config = CONFIG) -> MakeTask:
    return MakeTask(lambda _: task, config, rank, 3)


def agree(*tasks: Task) -> None:
    """Have one rank each make these tasks, and compare."""
    told = {rank: step(task, rank).act()[1] for rank, task in enumerate(tasks)}
    step(tasks[0]).agree(told)


def test_ranks_that_made_the_same_agree() -> None:
    agree(Mean(), Mean(), Mean())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"units_per_batch": 5}, "units_per_batch 5, not units_per_batch 4"),
        ({"unit": "pair"}, "unit pair, not unit sample"),
        ({"name": "Median"}, "name Median, not name Mean"),
        ({"about": {"data": 2}}, r'"data": 2'),
        (
            {"table": ParamTable([ParamSpec("mean", (3,))])},
            r"'mean' of shape \(3,\), not parameters 'mean' of shape \(2,\)",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_rank_that_made_another_task_is_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=rf"rank 2 made another task than rank 0: .*{text}"):
        agree(Mean(), Mean(), Mean(**changes))


def test_a_rank_that_makes_other_batches_is_named() -> None:
    class Own(Mean):
        def batch(self, share: Share, number: int) -> Any:
            return np.full(4, number)

    with pytest.raises(DataError, match="rank 2 makes another first batch of worker 0 than rank 1"):
        agree(Mean(), Mean(), Own(name="Mean"))


def test_a_rank_with_other_data_is_named_though_its_batches_are_the_same_rows() -> None:
    class OfData(Mean):
        data = np.arange(100.0)

        def add_gradient(self, weights: Any, gradient: Any, batch: Any) -> float:
            return float(self.data[batch].mean())

    agree(OfData(), OfData(), OfData(data=np.arange(100.0) + 1e-6))
    agree(OfData(), OfData(data=np.full(100, np.nan)), OfData())  # is told with its step
    with pytest.raises(DataError, match=r"rank 2 finds a loss of .* rank 1 finds .*same data"):
        agree(OfData(), OfData(), OfData(data=np.ones(100)))


def test_a_gradient_that_cannot_be_added_is_told_at_once() -> None:
    class Wrong(Mean):
        def add_gradient(self, weights: Any, gradient: Any, batch: Any) -> float:
            gradient["mean"] += np.ones(3)
            return 0.0

    with pytest.raises(ValueError, match="could not be broadcast"):
        step(Wrong()).act()


def test_a_batch_that_depends_on_what_came_before_is_refused() -> None:
    class Drawn(Mean):
        rng = np.random.default_rng(0)

        def batch(self, share: Share, number: int) -> Any:
            return {"x": self.rng.standard_normal(3), "y": (number, None)}

    with pytest.raises(DataError, match="batch 0 is another one when it is asked for again"):
        step(Drawn()).act()
    step(Drawn(), rank=0).act()  # a server reads none


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (object(), "expected a psdp.Task"),
        (Mean(table=[1]), "table to be a psdp.ParamTable, got"),
        (Mean(table=ParamTable([])), "at least 1 parameters"),
        (Mean(units_per_batch=0), "units_per_batch to be a whole number above 0, got 0"),
        (Mean(units_per_batch=2.5), "units_per_batch to be a whole number"),
        (Mean(unit="two words"), "unit to be a word such as 'sample', got 'two words'"),
        (Mean(unit="step"), "unit to be a word such as 'sample', got 'step'"),
        (Mean(measures=("f1",)), "measures of"),
        (Mean(about={"data": object()}), "is no plain JSON"),
        (Mean(about={1: "one"}), "is no plain JSON"),
        (Mean(validation_units=np.int64(3)), "validation_units to be a whole number"),
        (Mean(validation_units=3), "yields none, and validation_units is 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "task",
)
def test_what_is_no_task_is_refused_in_a_line(task: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        step(task).act()


def test_an_evaluation_is_said_and_has_losses() -> None:
    class Evaluated(Mean):
        def validation(self, part: int, parts: int) -> Iterator[Any]:
            yield np.arange(part, 10, parts)

    with pytest.raises(ConfigError, match=r"yields batches, and validation_units is 0"):
        step(Evaluated()).act()
    with pytest.raises(ConfigError, match=r"and no losses\(weights, batch\)"):
        step(Evaluated(validation_units=10)).act()

    class Whole(Evaluated):
        def losses(self, weights: Any, batch: Any) -> Measured:
            return Measured(len(batch), 1.0)

    step(Whole(validation_units=10)).act()


def test_early_stopping_needs_evaluations() -> None:
    config = Config.from_flat({"early_stop_patience": 2}).resolved()
    with pytest.raises(ConfigError, match="--early-stop-patience 2 needs evaluations, and Mean"):
        step(Mean(), config=config).act()


def test_texts_are_made_by_tasks_that_say_how() -> None:
    config = Config.from_flat({"sample_every": 250}).resolved()
    with pytest.raises(ConfigError, match=r"--sample-every 250 needs texts, and Mean makes none"):
        step(Mean(), config=config).act()

    class Told(Mean):
        def sample(self, backend: Any, weights: Any, rng: Any) -> Iterator[str]:
            yield f"the mean is {self.table.views(weights)['mean']}"

    step(Told(), config=config).act()


@dataclass
class Pair:
    x: Any
    y: Any


def test_batches_are_told_apart_by_what_they_hold() -> None:
    ones = np.ones(3)
    for a, b in (
        (ones, ones.astype("f4")), ((ones, 1), (ones, 2)), ([ones], [ones, ones]),
        ({"x": ones}, {"y": ones}), (Pair(ones, 1), Pair(ones, 2)), (slice(1), slice(2)),
    ):  # fmt: skip
        assert digest_of(a) == digest_of(a) != digest_of(b)
    assert digest_of(object()) is None
