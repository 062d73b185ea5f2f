"""What a flag may say beside the weights that a run begins with, and which part of them is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_run import SavedRun

from psdp.checkpoint import read_weights
from psdp.data.subwords import SubwordTokenizer
from psdp.errors import CheckpointError, ConfigError
from psdp.startup.origin import Began, ChooseOrigin, begun
from psdp.startup.sources import origin_at


def origin_of(case: SavedRun, rank: int = 0, **given: Any) -> dict[str, Any] | None:
    """Return what a rank tells of the run as an origin."""
    _, told = ChooseOrigin(rank, {"init_from": str(case.folder)} | given).act()
    return told.settings


def test_rank_0_looks_for_all(case: SavedRun) -> None:
    told = origin_of(case)
    assert told is not None
    assert told["init_from"] == str(case.checkpoint(10))
    assert origin_of(case, rank=1) is None
    step = ChooseOrigin(1, {"init_from": "not looked at"})
    assert step.agree({0: Began(told), 1: Began(None)}) == told


@pytest.mark.parametrize("flag", ["resume", "replay"])
def test_a_run_that_goes_on_does_without(case: SavedRun, flag: str) -> None:
    assert origin_of(case, **{flag: "runs/mine"}) is None


def test_shape_and_tokenizer_follow_and_all_else_is_free(case: SavedRun) -> None:
    origin = origin_of(case)
    assert origin is not None
    assert (origin["n_embd"], origin["tokenizer"]) == (4, "byte")
    assert not origin.keys() & {"lr", "mode", "corpus", "dropout", "init", "preset", "seed"}
    free = {"lr": 0.5, "mode": "ssp", "dropout": 0.5, "init": "normal", "corpus": ["elsewhere"]}
    same = {"n_layer": 1, "mlp_width": 16, "n_kv_head": 1, "block_size": 4, "preset": "gpt2"}
    run = begun(free | same | {"init_from": str(case.folder)}, origin)
    assert run.items() >= (free | same).items()
    assert run["init_from"] == str(case.checkpoint(10))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_layer": 2}, "--n-layer 2 differs from 1 of the model in"),
        ({"mlp_width": 32}, "--mlp-width 32 differs from None"),
        ({"preset": "llama"}, "--bias False differs from True"),
        ({"tokenizer": "char"}, "--tokenizer char differs from byte"),
        ({"block_size": 9}, "--block-size 9 differs from 8"),
    ],
)
def test_a_flag_that_differs_is_refused_naming_both(
    case: SavedRun, given: dict[str, Any], said: str
) -> None:
    origin = origin_of(case)
    assert origin is not None
    with pytest.raises(ConfigError, match=said):
        begun(given, origin)


def test_a_block_may_be_longer_without_learned_positions(tmp_path: Path) -> None:
    origin = origin_of(SavedRun(tmp_path / "run", position="sinusoidal"))
    assert origin is not None
    assert begun({"block_size": 100}, origin)["block_size"] == 100


def test_subwords_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the library of subwords is not installed")
    (tmp_path / "tokenizer.json").write_text(
        SubwordTokenizer.trained(["the quick brown fox " * 9], 260).definition
    )
    case = SavedRun(tmp_path / "run", tokenizer=str(tmp_path), vocab_size=300)
    origin = origin_of(case)
    assert origin is not None
    assert (origin["tokenizer"], origin["vocab_size"]) == (str(case.checkpoint(10)), 300)
    assert SubwordTokenizer.at(Path(origin["tokenizer"]), 300) == case.corpus.tokenizer


def test_any_part_of_a_checkpoint_is_read(case: SavedRun) -> None:
    whole, table = read_weights(case.manifest()), case.job.table
    origin = origin_at(case.checkpoint(10))
    for start, stop in ((0, table.size), (0, 5), (table.size // 3, table.size - 7), (9, 9)):
        part = origin.weights(table, range(start, stop), "float64")
        assert np.array_equal(part, whole[start:stop].astype("float64"))


def test_a_checkpoint_of_another_shape_names_the_parameter(case: SavedRun, tmp_path: Path) -> None:
    wider = SavedRun(tmp_path / "wider", n_embd=8)
    with pytest.raises(CheckpointError, match=r"holds no embedding\.tokens of shape \(256, 8\)"):
        origin_at(case.checkpoint(10)).weights(wider.job.table, range(4), "float32")
