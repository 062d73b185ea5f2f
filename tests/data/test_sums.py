"""What files of tokens hold, in short: worked out by all cores where they are large, and kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from psdp.data import sums as module
from psdp.data.formats import map_tokens
from psdp.data.sums import Sums, sums_of
from psdp.data.tokens import Shard
from psdp.errors import DataError

TOKENS = [np.arange(n, n + 50, dtype=np.uint16) for n in (3, 500, 90)]


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Shard]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "PIECE", 8)
    for n, tokens in enumerate(TOKENS):
        np.save(tmp_path / f"{n}.npy", tokens)
    return [map_tokens(tmp_path / f"{n}.npy", None) for n in range(3)]


def found(shards: list[Shard]) -> tuple[Sums, int]:
    """The sums, and how many bytes were read for them."""
    read: list[int] = []
    return sums_of(shards, read.append), sum(read)


def test_small_files_are_known_by_the_hash_of_all_that_they_hold(shards: list[Shard]) -> None:
    sums, read = found(shards)
    assert sums.sha256 == hashlib.sha256(np.concatenate(TOKENS).tobytes()).hexdigest()
    assert (sums.least, sums.most) == ((3, 500, 90), (52, 549, 139))
    assert read == 300


def test_large_ones_by_the_hash_of_their_hashes(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    small, _ = found(shards)
    monkeypatch.setattr(module, "SEPARATELY", 0)
    large, read = found(shards)
    each = [hashlib.sha256(tokens.tobytes()).hexdigest() for tokens in TOKENS]
    assert large.sha256 == hashlib.sha256("".join(each).encode()).hexdigest()
    assert large.checks == tuple(digest[:8] for digest in each)
    assert (large.least, large.most) == (small.least, small.most)
    assert read == 300
    assert found(shards[:1])[0].sha256 == hashlib.sha256(TOKENS[0].tobytes()).hexdigest()


def test_what_was_worked_out_is_kept_while_the_files_are_as_they_were(
    shards: list[Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 0)
    first, read = found(shards)
    assert read == 300
    assert found(shards) == (first, 0)
    np.save(tmp_path / "1.npy", TOKENS[1] + 1)
    again, read = found(shards)
    assert read == 300
    assert [a == b for a, b in zip(again.checks, first.checks, strict=True)] == [True, False, True]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": 1}'])
def test_what_is_kept_and_damaged_is_worked_out_again(
    shards: list[Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(module, "KEPT", 0)
    first, _ = found(shards)
    (kept,) = (path for path in (tmp_path / "cache" / "psdp").iterdir() if not path.suffix)
    kept.write_text(content)
    assert found(shards) == (first, 300)


def test_where_nothing_can_be_kept_it_is_worked_out(
    shards: list[Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 0)
    (tmp_path / "cache").write_text("in the way")
    assert found(shards)[1] == found(shards)[1] == 300


@pytest.mark.parametrize("separately", [0, 1 << 32])
def test_a_file_that_is_cut_meanwhile_is_named(
    shards: list[Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separately: int
) -> None:
    monkeypatch.setattr(module, "SEPARATELY", separately)
    with (tmp_path / "1.npy").open("r+b") as opened:
        opened.truncate(150)
    with pytest.raises(DataError, match=r"1\.npy was cut to 150 of its 228 bytes while"):
        sums_of(shards, lambda _: None)
