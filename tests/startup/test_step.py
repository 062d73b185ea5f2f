"""What ranks do together succeeds on all of them, or ends all of them, told once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from psdp.errors import ConfigError, DataError, ProtocolError, StartRefused
from psdp.startup import step as steps
from psdp.startup.step import Nothing, Step, take
from psdp.transport.in_memory import Aborted
from psdp.transport.in_memory_world import InMemoryWorlds
from psdp.transport.world import World

pytestmark = pytest.mark.timeout(30)


@dataclass(frozen=True)
class Number:
    x: int


@dataclass(frozen=True)
class Tell(Step[str, Number, list[int]]):
    """Tells a number."""

    action: Callable[[], int]
    facts: type[Any] = Number

    def act(self) -> tuple[str, Number]:
        return "mine", Number(self.action())

    def agree(self, facts: Mapping[int, Number]) -> list[int]:
        numbers = [fact.x for fact in facts.values()]
        if numbers[0] < 0:
            raise DataError("the first number is negative")
        return numbers


def take_all(*actions: Callable[[], int]) -> list[Any]:
    """Return what each rank has of a step, or the error that it ends with."""
    found: list[Any] = [None] * len(actions)

    def life(world: World) -> int:
        try:
            found[world.rank] = take(world, Tell(actions[world.rank]))
        except StartRefused as refusal:
            found[world.rank] = refusal
        return 0

    ends = InMemoryWorlds(["a"] * len(actions)).run(life, timeout_s=20)
    return [end if isinstance(end, BaseException) else found[i] for i, end in enumerate(ends)]


def fails(error: BaseException) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


def statuses(ends: list[Any]) -> list[int]:
    assert all(isinstance(end, StartRefused) for end in ends), ends
    return [end.exit_code for end in ends]


def test_a_step_returns_ones_own_value_and_what_all_make_of_the_facts() -> None:
    assert take_all(lambda: 0, lambda: 1, lambda: 2) == [("mine", [0, 1, 2])] * 3


def test_an_error_of_all_ranks_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    ends = take_all(*[fails(DataError("the corpus is empty"))] * 4)
    assert statuses(ends) == [3] * 4
    assert capsys.readouterr() == ("", "psdp: the corpus is empty\n")


def test_an_error_of_some_ranks_names_them_and_ends_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    no_gpu = fails(ConfigError("no GPU"))
    assert statuses(take_all(lambda: 0, no_gpu, lambda: 2, no_gpu)) == [2] * 4
    assert capsys.readouterr() == ("", "psdp: rank 1, 3: no GPU\n")


def test_ranks_without_a_part_in_it_are_none_that_did_not_fail(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tell, "concerns", lambda _, rank: rank > 0)
    no_text = fails(DataError("no text"))
    assert statuses(take_all(lambda: 0, no_text, no_text)) == [3] * 3
    assert capsys.readouterr() == ("", "psdp: no text\n")


def test_what_all_find_wrong_with_the_facts_is_told_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert statuses(take_all(lambda: -1, lambda: 1)) == [3, 3]
    assert capsys.readouterr() == ("", "psdp: the first number is negative\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3.4 TiB"),
        OverflowError("Python int too large to convert to C long"),
        ValueError("array is too big; `arr.size * arr.dtype.itemsize` is larger than ..."),
        ValueError("Maximum allowed dimension exceeded"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_too_little_memory_is_told_with_what_to_lower(
    capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    assert statuses(take_all(fails(error), lambda: 1)) == [ConfigError.exit_code] * 2 == [2, 2]
    assert capsys.readouterr().err == (
        f"psdp: rank 0: the settings ask for more memory than there is ({error}); lower --n-layer, "
        "--n-embd, --block-size, --batch-size or --vocab-size\n"
    )


@pytest.mark.parametrize("size", [1 << 45, 1 << 61, 1 << 70])
def test_a_table_beyond_any_memory_is_what_numpy_makes_of_it(size: int) -> None:
    """Which errors NumPy raises where a size cannot be had; step.py knows them by their text."""
    assert statuses(take_all(lambda: int(np.zeros(size)[0]))) == [2]


@pytest.mark.parametrize(
    "mistake",
    [ZeroDivisionError("x"), ValueError("invalid literal"), SystemExit(3), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_a_mistake_of_ours_ends_all_with_its_traceback_and_is_no_error_of_the_user(
    capsys: pytest.CaptureFixture[str], mistake: BaseException
) -> None:
    assert statuses(take_all(lambda: 0, fails(mistake), lambda: 2)) == [1] * 3
    told = capsys.readouterr().err
    assert told.startswith("psdp: rank 1: failed:\nTraceback (most recent call last):\n")
    assert told.count(type(mistake).__name__) == 1


def test_a_rank_with_a_mistake_of_ours_waits_for_busy_ranks_only_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps, "PATIENCE_S", 0.05)

    def busy() -> int:
        time.sleep(0.5)
        return 0

    ends = take_all(busy, fails(ZeroDivisionError("x")))
    assert isinstance(ends[0], Aborted), "it was ended by the other, as MPI would"
    assert isinstance(ends[1], ZeroDivisionError), "for its rank to tell"


def test_facts_of_another_kind_are_refused() -> None:
    def life(world: World) -> int:
        take(world, Tell(lambda: 1, facts=Nothing if world.rank else Number))
        return 0

    ends = InMemoryWorlds(["a", "a"]).run(life, timeout_s=20)
    assert any(isinstance(end, ProtocolError) for end in ends)
