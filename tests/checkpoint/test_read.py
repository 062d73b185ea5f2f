"""Every way a checkpoint can be damaged is found, and the text names the very file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psdp.checkpoint import (
    CheckpointId,
    CheckpointStore,
    Inner,
    Manifest,
    find_checkpoint,
    read_manifest,
    read_shard,
    read_span,
    read_weights,
    read_worker,
)
from psdp.checkpoint.manifest import CheckpointFile, manifest_text
from psdp.checkpoint.read import verify
from psdp.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of two shards, and of one of two workers."""
    store = CheckpointStore(tmp_path, keep=1)
    entries = [
        store.write_shard(CheckpointId(42, 42), shard, 2, {"weights": np.arange(10.0) + shard})
        for shard in range(2)
    ]
    inner = Inner(clock=42, updates=7, answered=False, own={"weights": np.arange(20.0)})
    workers = {1: store.write_worker(CheckpointId(42, 42), 1, inner.tensors()), 2: None}
    state = {"updates": 42, "loss": 1.5}
    return store.commit(CheckpointId(42, 42), entries, state, workers=workers)


def test_what_a_worker_had_for_itself_comes_back(folder: Path) -> None:
    manifest = read_manifest(folder)
    tensors = read_worker(manifest, 1)
    assert tensors is not None
    inner = Inner.from_tensors(tensors)
    assert (inner.clock, inner.updates, inner.answered, inner.optimizer) == (42, 7, False, {})
    np.testing.assert_array_equal(inner.own["weights"], np.arange(20.0))
    assert read_worker(manifest, 2) is None, "the checkpoint says that it has none"
    assert read_worker(manifest, 3) is None


def test_a_truncated_shard(folder: Path) -> None:
    path = folder / "shard-01-of-02.safetensors"
    size = path.stat().st_size
    os.truncate(path, size - 8)
    with pytest.raises(CheckpointError) as caught:
        read_shard(read_manifest(folder), 1)
    assert str(caught.value) == f"{path} is damaged: expected {size} bytes, got {size - 8}"
    with pytest.raises(CheckpointError, match="shard-01-of-02"):
        read_weights(read_manifest(folder))


@pytest.mark.parametrize("place", [0, 9, 20, -1])
def test_one_flipped_bit(folder: Path, place: int) -> None:
    path = folder / "shard-00-of-02.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    got = hashlib.sha256(content).hexdigest()
    with pytest.raises(CheckpointError, match=f"shard-00-of-02.*expected sha256 .*, got {got}"):
        read_shard(read_manifest(folder), 0)


def test_a_missing_shard(folder: Path) -> None:
    (folder / "shard-00-of-02.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"shard-00-of-02\.safetensors: No such file"):
        read_weights(read_manifest(folder))


def test_a_folder_in_a_shards_place(folder: Path) -> None:
    (folder / "shard-00-of-02.safetensors").unlink()
    (folder / "shard-00-of-02.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"shard-00-of-02\.safetensors: Is a directory"):
        read_weights(read_manifest(folder))


@pytest.mark.parametrize("name", ["checkpoint.json", "shard-00-of-02.safetensors"])
def test_a_pipe_in_a_files_place_keeps_nobody_waiting(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    for read in (read_weights, lambda manifest: read_span(manifest, range(3))):
        with pytest.raises(CheckpointError, match=re.escape(f"{name}: not a regular file")):
            read(read_manifest(folder))


def test_a_shard_that_was_never_there(folder: Path) -> None:
    manifest = read_manifest(folder)
    for shard in (-1, 2):
        with pytest.raises(CheckpointError, match=r"shards 0 to 1, asked for .*--servers 2"):
            read_shard(manifest, shard)


def edit(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda body: body | {key: value}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit("step", 43), "was edited or damaged"),
        (edit("state", {"updates": 43}), "was edited or damaged"),
        (edit("files", []), "was edited or damaged"),
        (edit("digest", "0" * 64), "was edited or damaged"),
        (edit("digest", None), "was edited or damaged"),
        (edit("more", 1), "was edited or damaged"),
        (edit("format", 2), "expected checkpoint format 1, got 2"),
        (edit("format", [1]), "expected checkpoint format 1, got [1]"),
        (lambda body: [body], "expected a JSON object, got list"),
        (lambda body: {}, "expected checkpoint format 1, got None"),
    ],
)
def test_an_edited_manifest(folder: Path, change: Any, words: str) -> None:
    path = folder / "checkpoint.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(CheckpointError) as caught:
        read_manifest(folder)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"9" * 5000])
def test_a_manifest_that_is_not_json(folder: Path, content: bytes) -> None:
    (folder / "checkpoint.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is damaged: expected JSON"):
        read_manifest(folder)


def test_a_missing_manifest(folder: Path) -> None:
    (folder / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: No such file"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit("step", -1), "expected a step of at least 0, got -1"),
        (edit("step", True), "got True"),
        (edit("state", [1]), "expected the state to be an object"),
        (edit("files", {}), "expected a list of shard files"),
        (lambda body: body | {"files": body["files"][:1]}, "expected the shard files"),
        (lambda body: body | {"files": body["files"][:1] * 2}, "expected the shard files"),
        (edit("files", [{"name": "../../x", "bytes": 1, "sha256": "0" * 64}]), "../../x"),
        (edit("workers", []), "expected the files of workers"),
        (edit("attached", {}), "expected a list of attached files"),
        (edit("attached", [{"name": "a/b", "bytes": 1, "sha256": "0" * 64}]), "a plain file name"),
        (edit("attached", [{"name": "checkpoint.json", "bytes": 1, "sha256": "0" * 64}]), "plain"),
        (edit("workers", {"-1": None}), "expected the number of a worker, got '-1'"),
        (edit("workers", {"1": {}}), "expected a file as name, bytes and sha256"),
        (lambda body: body | {"workers": {"2": body["workers"]["1"]}}, "worker-0002.safetensors"),
    ],
)
def test_a_manifest_of_wrong_types_under_a_right_digest(
    folder: Path, change: Any, words: str
) -> None:
    path = folder / "checkpoint.json"
    body = change(json.loads(path.read_text()))
    del body["digest"]
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    body["digest"] = hashlib.sha256(canonical).hexdigest()
    path.write_text(json.dumps(body))
    with pytest.raises(CheckpointError) as caught:
        read_manifest(folder)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_manifest_laid_out_anew_is_the_same_manifest(folder: Path) -> None:
    before = read_manifest(folder)
    path = folder / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert read_manifest(folder) == before


def lying(tmp_path: Path, content: bytes) -> Manifest:
    """A manifest whose size and hash fit a shard that is not what its own header says."""
    file = CheckpointFile(
        "shard-00-of-01.safetensors", len(content), hashlib.sha256(content).hexdigest()
    )
    (tmp_path / file.name).write_bytes(content)
    (tmp_path / "checkpoint.json").write_text(manifest_text(1, {}, [file]))
    return read_manifest(tmp_path)


def safetensors(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        b"\xff" * 16,
        (10**9).to_bytes(8, "little") + b"{}",
        safetensors([1], b""),
        safetensors({"weights": tensor("F32", [4], 0, 16)}, b"\x00" * 8),
        safetensors({"weights": tensor("F32", [10**9], 0, 16)}, b"\x00" * 16),
        safetensors({"weights": tensor("F32", [-4], 0, 16)}, b"\x00" * 16),
        safetensors({"weights": tensor("F32", [4], 16, 0)}, b"\x00" * 16),
        safetensors({"weights": tensor("F99", [4], 0, 16)}, b"\x00" * 16),
        safetensors({"weights": tensor("I32", [4], 0, 16)}, b"\x00" * 16),
        safetensors({"weights": tensor("BF16", [8], 0, 16)}, b"\x00" * 16),
    ],
    ids=str,
)
def test_a_header_that_lies(tmp_path: Path, content: bytes) -> None:
    manifest = lying(tmp_path, content)
    for read in (lambda: read_shard(manifest, 0), lambda: read_weights(manifest)):
        with pytest.raises(CheckpointError, match=r"shard-00-of-01\.safetensors"):
            read()


@pytest.mark.parametrize("shape", [[], [1, 1]])
def test_weights_that_are_no_vector(tmp_path: Path, shape: list[int]) -> None:
    manifest = lying(tmp_path, safetensors({"weights": tensor("F32", shape, 0, 4)}, b"\x00" * 4))
    with pytest.raises(CheckpointError, match=r"shard-00-of-01.*a vector of float32"):
        read_weights(manifest)


def test_shards_of_different_precision(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    entries = [
        store.write_shard(CheckpointId(1, 1), shard, 2, {"weights": np.ones(4, dtype)})
        for shard, dtype in enumerate(("float32", "float64"))
    ]
    manifest = read_manifest(store.commit(CheckpointId(1, 1), entries, {}))
    with pytest.raises(CheckpointError, match=r"shard-01-of-02.*a vector of float32, got float64"):
        read_weights(manifest)


def test_a_shard_without_weights(tmp_path: Path) -> None:
    manifest = lying(tmp_path, safetensors({"other": tensor("F32", [1], 0, 4)}, b"\x00" * 4))
    assert list(read_shard(manifest, 0)) == ["other"]
    with pytest.raises(CheckpointError, match="weights"):
        read_weights(manifest)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_single_damage_to_any_file_is_found(folder: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != good[place]))
    same_json = False
    bad = good[:place] + bytes([value]) + good[place + 1 :]
    if path.suffix == ".json":
        try:
            same_json = json.loads(bad) == json.loads(good)  # one blank for another
        except ValueError:
            same_json = False
    path.write_bytes(bad)
    try:
        if same_json:
            read_manifest(folder)
        else:
            with pytest.raises(CheckpointError, match=path.name):
                verify(read_manifest(folder))
    finally:
        path.write_bytes(good)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    state=st.dictionaries(
        st.text() | st.integers(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_any_json_state_comes_back(tmp_path: Path, state: dict[Any, Any]) -> None:
    """As JSON has it: keys are text, and NaN is NaN."""
    file = CheckpointFile("shard-00-of-01.safetensors", 0, "0" * 64)
    (tmp_path / "checkpoint.json").write_text(manifest_text(3, state, [file]))
    manifest = read_manifest(tmp_path)
    assert json.dumps(manifest.state) == json.dumps(json.loads(json.dumps(state)))


def test_a_run_folder_a_checkpoint_and_nothing_else_are_found(tmp_path: Path, folder: Path) -> None:
    assert find_checkpoint(tmp_path) == folder
    assert find_checkpoint(folder) == folder


def test_what_is_incomplete_or_foreign_is_not_the_latest(tmp_path: Path, folder: Path) -> None:
    for name in (
        "step-000043-v43",
        ".tmp-step-000044-v000044",
        "step-45",
        "step-000046-v000046.bak",
        "step-x",
    ):
        (folder.parent / name).mkdir()
    for name in (
        ".tmp-step-000044-v000044",
        "step-45",
        "step-000043-v43",
        "step-000046-v000046.bak",
        "step-x",
    ):
        (folder.parent / name / "checkpoint.json").write_text("{}")
    assert find_checkpoint(tmp_path) == folder


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder"):
        find_checkpoint(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="it is not a folder"):
        find_checkpoint(tmp_path / "file")
    with pytest.raises(
        CheckpointError, match=r"neither checkpoint\.json nor a folder 'checkpoints'"
    ):
        find_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / ".tmp-step-000001-v000001").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"holds none \(a folder step-NNNNNN-vNNNNNN "):
        find_checkpoint(tmp_path)


def _truncate(folder: Path) -> None:
    os.truncate(folder / "shard-01-of-02.safetensors", 100)


def _flip(folder: Path, shard: int = 0) -> None:
    path = folder / f"shard-{shard:02d}-of-02.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _leave_a_link_to_nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.with_name("gone"))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_truncate, "shard-01-of-02.safetensors is damaged: expected "),
        (_flip, "shard-00-of-02.safetensors is damaged: expected sha256 "),
        (lambda f: (f / "shard-00-of-02.safetensors").unlink(), "00-of-02.safetensors: No such"),
        (lambda f: (f / "checkpoint.json").unlink(), "checkpoint.json: No such file"),
        (lambda f: (f / "checkpoint.json").write_text("{"), "checkpoint.json is damaged"),
        (_leave_a_link_to_nothing, "checkpoint.json: No such file"),
    ],
)
def test_the_latest_that_is_whole_is_found_and_why_not_a_later_one_is_said(
    tmp_path: Path, folder: Path, damage: Callable[[Path], Any], why: str
) -> None:
    later = [folder.with_name(name) for name in ("step-000042-v000043", "step-000043-v000043")]
    for copy in later:
        shutil.copytree(folder, copy)
        damage(copy)
    said: list[str] = []
    assert find_checkpoint(tmp_path, said.append) == folder
    for text, copy in zip(said, reversed(later), strict=True):
        assert text.startswith("passed over a checkpoint that is not whole: ")
        assert why in text
        assert str(copy) in text
    damage(folder)
    with pytest.raises(CheckpointError, match=f"none in .*checkpoints is whole: .*{why}"):
        find_checkpoint(tmp_path)


def test_a_span_is_read_from_the_files_that_hold_some_of_it_alone(folder: Path) -> None:
    manifest = read_manifest(folder)
    _flip(folder, 1)  # of which the header is read for its size, no more
    first, both = np.arange(10.0), [range(2, 10), range(10), range(5, 5), range(3, 11)]
    for span in both[:3]:
        read = read_span(manifest, span)["weights"]
        np.testing.assert_array_equal(read, first[span.start : span.stop])
    with pytest.raises(CheckpointError, match=r"shard-01-of-02.* is damaged"):
        read_span(manifest, both[3])
