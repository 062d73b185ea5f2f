"""Tokens in files: every type is read as it is, and what cannot be is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psdp.data.formats import map_tokens
from psdp.data.formats.bins import map_bin
from psdp.data.token_files import chosen_of
from psdp.data.tokens import Tokens
from psdp.errors import ConfigError, DataError

LLM_C = {"<u2": (20240520, 1), "<u4": (20240801, 7)}


def with_header(file: Path, tokens: Any, dtype: str, **changes: int) -> Path:
    """Write tokens as llm.c does."""
    header = np.zeros(256, "<i4")
    header[:2] = LLM_C[dtype]
    header[2] = len(tokens)
    for name, value in changes.items():
        header[("magic", "version", "count").index(name)] = value
    file.write_bytes(header.tobytes() + np.asarray(tokens, dtype).tobytes())
    return file


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_a_header_is_no_tokens(tmp_path: Path, dtype: str) -> None:
    file = with_header(tmp_path / "a.bin", [50256, 1, 2], dtype)
    shard = map_bin(file, None)
    assert shard.tokens.tolist() == [50256, 1, 2]
    assert shard.tokens.dtype == dtype
    assert map_bin(file, {"<u2": "uint16", "<u4": "uint32"}[dtype]).tokens.size == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, r"magic 20240520\) in version 2, of which only 1 is known"),
        ({"count": 4}, "holds 4 tokens of 2 bytes, and has 6 bytes of them: it was cut"),
        ({"count": 2}, "holds 2 tokens of 2 bytes, and has 6 bytes"),
        ({"count": -1}, "holds -1 tokens"),
        ({"magic": int.from_bytes((20240520).to_bytes(4, "little"), "big", signed=True)},
         "in big-endian order, which is not read"),
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        map_bin(with_header(tmp_path / "a.bin", [5, 6, 7], "<u2", **changes), None)


def test_a_header_that_is_cut_is_refused(tmp_path: Path) -> None:
    file = with_header(tmp_path / "a.bin", [5, 6, 7], "<u2")
    whole = file.read_bytes()
    for size in (4, 7, 11, 12, 800, 1024, 1026):
        file.write_bytes(whole[:size])
        with pytest.raises(
            DataError, match=r"a\.bin (is cut within its header|says in its header)"
        ):
            map_bin(file, None)


def test_another_type_than_that_of_the_header_is_refused(tmp_path: Path) -> None:
    file = with_header(tmp_path / "a.bin", [5, 6, 7], "<u2")
    with pytest.raises(ConfigError, match=r"--token-dtype uint32 is for raw .* of uint16; drop"):
        map_bin(file, "uint32")
    np.save(tmp_path / "a.npy", np.arange(9, dtype=">u2"))
    with pytest.raises(ConfigError, match="--token-dtype uint32"):
        map_tokens(tmp_path / "a.npy", "uint32")
    assert map_tokens(tmp_path / "a.npy", "uint16").tokens.tolist() == list(range(9))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int32", "int64"])
def test_a_raw_file_is_of_the_type_that_is_said(tmp_path: Path, dtype: str) -> None:
    tokens = (np.arange(1000) % 200).astype(dtype)
    tokens.tofile(tmp_path / "a.bin")
    assert map_bin(tmp_path / "a.bin", dtype).tokens.tolist() == tokens.tolist()


@pytest.mark.parametrize(
    ("dtype", "wider"),
    [("<u4", "uint32"), ("<i4", "uint32"), ("<u8", "uint64"), ("<i8", "uint64")],
)
@pytest.mark.parametrize("vocab_size", [65, 5000, 50257, 200_000])
def test_a_raw_file_of_a_wider_type_is_refused(
    tmp_path: Path, dtype: str, wider: str, vocab_size: int
) -> None:
    tokens = np.random.default_rng(0).integers(0, vocab_size, 20000)
    tokens.astype(dtype).tofile(tmp_path / "a.bin")
    with pytest.raises(DataError, match=f"looks like {wider}, .* --token-dtype {wider}"):
        map_bin(tmp_path / "a.bin", None)
    assert map_bin(tmp_path / "a.bin", "uint16").tokens.size > 20000


@pytest.mark.parametrize("vocab_size", [65, 5000, 50257])
def test_a_raw_file_of_uint16_is_not_taken_for_a_wider_one(tmp_path: Path, vocab_size: int) -> None:
    np.random.default_rng(0).integers(0, vocab_size, 20000).astype("<u2").tofile(tmp_path / "a.bin")
    assert map_bin(tmp_path / "a.bin", None).tokens.size == 20000


def test_a_row_in_fortran_order_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    np.save(file, np.asfortranarray(np.arange(6).reshape(2, 3)))
    with pytest.raises(
        DataError, match=r"1-D .* of shape \(2, 3\) in Fortran order; write one row"
    ):
        map_tokens(file, None)
    np.save(file, np.arange(6))
    file.write_bytes(
        file.read_bytes().replace(b"'fortran_order': False, ", b"'fortran_order': True,  ")
    )
    with pytest.raises(DataError, match="in Fortran order"):
        map_tokens(file, None)


@pytest.mark.parametrize("name", ["a.npy", "a.bin"])
def test_a_file_that_is_cut_while_it_is_read_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    tokens = np.arange(100_000).astype(np.uint16)
    np.save(file, tokens) if name == "a.npy" else tokens.tofile(file)
    row = Tokens([map_tokens(file, None)])
    into = np.empty(10, np.int64)
    row.read(99_000, into)
    with file.open("r+b") as opened:
        opened.truncate(5000)
    for start in (0, 99_000):
        with pytest.raises(DataError, match=rf"{name} was cut to 5,000 of its 200,\d+ bytes while"):
            row.read(start, into)


def choose(*names: str) -> tuple[list[str], list[str], list[str]]:
    chosen = chosen_of([Path("data") / name for name in names])
    return tuple(
        [file.name for file in kind] for kind in (chosen.train, chosen.val, chosen.left_out)
    )  # type: ignore[return-value]


def test_of_a_folder_the_files_called_train_are_trained_on() -> None:
    assert choose("input.txt", "meta.pkl", "prepare.py", "train.bin", "val.bin") == (
        ["train.bin"], ["val.bin"], ["input.txt", "meta.pkl", "prepare.py"],
    )  # fmt: skip
    shards = [f"fineweb_train_{n:06d}.bin" for n in (1, 2)]
    assert choose(*shards, "fineweb_val_000000.bin") == (shards, ["fineweb_val_000000.bin"], [])


@pytest.mark.parametrize(
    "names", [("a.txt", "train.txt", "val.txt"), ("a.bin", "train.bin"), ("a.bin", "interval.bin")]
)
def test_other_names_mean_nothing(names: tuple[str, ...]) -> None:
    assert choose(*names) == ([*names], [], [])
