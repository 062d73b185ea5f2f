"""The start of whole jobs, in memory: all ranks are ready, or all end and nothing is left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psdp import rank as ranks
from psdp.data.token_folder import write_tokens
from psdp.data.tokenizer import ByteTokenizer, CharTokenizer
from psdp.line import Line
from psdp.startup import Ready, prepare
from psdp.transport.in_memory import Aborted
from psdp.transport.in_memory_world import End, InMemoryWorlds
from psdp.transport.world import World

pytestmark = pytest.mark.timeout(60)


def nobody_asks() -> None:
    """No signal comes."""


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """Return settings of a tiny run into a folder that is not there yet."""
    np.save(tmp_path / "tokens.npy", np.arange(2000, dtype=np.uint8) % 50)
    return {
        "n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8, "batch_size": 2, "max_steps": 3,
        "threads": 1, "quiet": True, "vocab_size": 64, "corpus": [str(tmp_path / "tokens.npy")],
        "out": str(tmp_path / "new" / "run"),
    }  # fmt: skip


def live(given: dict[str, Any], size: int = 3) -> tuple[list[End], int | None]:
    """Return how each rank of a job ended, and the status with which one ended all, if one did."""
    worlds = InMemoryWorlds(["here"] * size)
    ends = worlds.run(lambda world: ranks.live_in(world, given, None, nobody_asks, Line()), 30)
    return ends, worlds.status


def on_rank(number: int, error: BaseException, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that fails on one rank, and does what it did on all others."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread().name == f"rank {number}":
            raise error
        return otherwise(*args, **kwargs)

    return wrapped


def test_bytes_are_refused_for_other_tokens_only_where_they_are_said(
    given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    characters = CharTokenizer("abcd")
    write_tokens(tmp_path / "tokens", characters, [np.arange(900) % 4], text_bytes=[900])
    del given["vocab_size"]
    given["corpus"] = [str(tmp_path / "tokens")]
    said = given | {"tokenizer": "byte"}
    assert live(said) == ([2, 2, 2], None)
    assert capsys.readouterr().err == (
        f"psdp: --tokenizer byte is not the one that the tokens in {tmp_path}/tokens were made "
        "with (char, 4 tokens); drop the flag\n"
    )
    assert live(given) == ([0, 0, 0], None)
    write_tokens(tmp_path / "bytes", ByteTokenizer(), [np.arange(900) % 4], text_bytes=[900])
    own = {"corpus": [str(tmp_path / "bytes")], "out": str(tmp_path / "other")}
    assert live(said | own) == ([0, 0, 0], None)


def test_a_job_starts_trains_and_ends(given: dict[str, Any]) -> None:
    assert live(given) == ([0, 0, 0], None)
    run = Path(given["out"])
    assert {"config.json", "metrics.jsonl", "summary.json"} <= {p.name for p in run.iterdir()}


def test_all_ranks_know_the_same_and_each_its_own_part(given: dict[str, Any]) -> None:
    ready: dict[int, Ready] = {}

    def life(world: World) -> int:
        ready[world.rank] = prepare(world, given | {"servers": 2}, None)
        return 0

    assert InMemoryWorlds(["a", "a", "a", "b"]).run(life, 30) == [0] * 4
    assert {found.folder.path for found in ready.values()} == {Path(given["out"])}
    assert {found.links.name for found in ready.values()} == {"mixed"}
    assert ready[0].links.shared == {(0, 2), (1, 2)}, "rank 3 is on another host"
    assert [ready[rank].shard is not None for rank in range(4)] == [True, True, False, False]
    assert [ready[rank].replica is not None for rank in range(4)] == [False, False, True, True]


def test_settings_that_differ_end_all_ranks_before_there_is_a_folder(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    worlds = InMemoryWorlds(["here"] * 3)

    def life(world: World) -> int:
        own = given | {"lr": 0.5} if world.rank == 2 else given
        return ranks.live_in(world, own, None, nobody_asks, Line())

    assert worlds.run(life, 30) == [2, 2, 2]
    assert worlds.status is None, "nobody had to end the others"
    assert capsys.readouterr().err.startswith("psdp: rank 2 was started with --lr 0.5, rank 0 with")
    assert not Path(given["out"]).parent.exists()


@pytest.mark.parametrize(
    "mistake", [ZeroDivisionError("x"), SystemExit(3), KeyboardInterrupt()], ids=repr
)
@pytest.mark.parametrize(
    "where",
    [
        "psdp.startup.corpus.load_corpus",
        "psdp.startup.parts.make_memory",
        "psdp.startup.roles.Worker",
    ],
)
def test_a_mistake_in_any_step_ends_all_ranks_and_leaves_no_folder(
    given: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
    mistake: BaseException,
) -> None:
    """The last of these fails when the folder is there already."""
    module, _, name = where.rpartition(".")
    original = getattr(import_module(module), name)
    monkeypatch.setattr(where, on_rank(1, mistake, original))
    assert live(given) == ([1, 1, 1], None)
    told = capsys.readouterr().err
    assert told.startswith("psdp: rank 1: failed:\nTraceback (most recent call last):\n")
    assert told.count("Traceback") == 1
    assert not Path(given["out"]).parent.exists()


def test_a_mistake_between_steps_ends_all_ranks_too(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake = on_rank(2, SystemExit(0), lambda _threads: None)
    monkeypatch.setattr(import_module("psdp.startup.building"), "limit_blas", mistake)
    ends, status = live(given)
    assert all(isinstance(end, Aborted) for end in ends)
    assert status == 1
    assert not Path(given["out"]).parent.exists()
