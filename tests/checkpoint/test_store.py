"""A checkpoint is whole or not there, and the right ones are kept."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from psdp.checkpoint import (
    CheckpointStore,
    find_checkpoint,
    read_manifest,
    read_shard,
    read_weights,
)
from psdp.errors import CheckpointError
from psdp.params import Array


def tensors_of(size: int = 1000, seed: int = 0, dtype: str = "float32") -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    names = ("weights", "optimizer.exp_avg", "optimizer.exp_avg_sq")
    return {name: rng.standard_normal(size).astype(dtype) for name in names}


def save(store: CheckpointStore, step: int, state: dict[str, Any] | None = None) -> Path:
    entry = store.write_shard(step, 0, 1, tensors_of(seed=step))
    return store.commit(step, [entry], state or {})


def steps_in(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_was_written_is_read_back_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    counters = {"progress": np.array([100, 7680]), "clocks": np.array([[1, 50], [2, 50]])}
    tensors = tensors_of(dtype=dtype) | counters
    state = {"updates": 100, "clocks": {"1": 50, "2": 50}, "best_loss": 2.5, "name": "é"}
    folder = store.commit(100, [store.write_shard(100, 0, 1, tensors)], state)
    assert folder == tmp_path / "checkpoints" / "step-000100"
    assert sorted(os.listdir(folder)) == ["checkpoint.json", "shard-00-of-01.safetensors"]
    manifest = read_manifest(find_checkpoint(tmp_path))
    assert (manifest.folder, manifest.step, manifest.state) == (folder, 100, state)
    read = read_shard(manifest, 0)
    assert set(read) == set(tensors)
    for name, vector in tensors.items():
        assert read[name].dtype == vector.dtype
        assert np.array_equal(read[name], vector)


def test_the_files_are_plain_safetensors_for_everyone_else(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    tensors = tensors_of(0) | {'a "quoted" name': np.arange(3.0), "weights": np.arange(5.0)}
    folder = store.commit(1, [store.write_shard(1, 0, 1, tensors)], {})
    read = load_file(folder / "shard-00-of-01.safetensors")
    assert {name: vector.tolist() for name, vector in read.items()} == {
        name: vector.tolist() for name, vector in tensors.items()
    }


def test_identical_inputs_give_identical_files(tmp_path: Path) -> None:
    tensors = tensors_of()
    backwards = dict(reversed(tensors.items()))
    contents = []
    for run, order in (("a", tensors), ("b", backwards)):
        store = CheckpointStore(tmp_path / run, keep=1)
        folder = store.commit(7, [store.write_shard(7, 0, 1, order)], {"loss": 0.1})
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]


def test_everything_is_on_the_disk_before_the_rename_and_the_rename_before_commit_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "checkpoints"
    done: list[tuple[str, str, int]] = []
    rename = Path.rename

    def record_fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        size = os.fstat(descriptor).st_size if path.is_file() else 0
        done.append(("fsync", str(path.relative_to(tmp_path)), size))

    def record_rename(source: Path, target: Path) -> Path:
        done.append(("rename", str(source.relative_to(tmp_path)), 0))
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    save(CheckpointStore(tmp_path, keep=1), 1)
    size = {path.name: path.stat().st_size for path in (root / "step-000001").iterdir()}
    shard, manifest = "shard-00-of-01.safetensors", "checkpoint.json"
    assert done == [
        ("fsync", f"checkpoints/.tmp-step-000001/{shard}", size[shard]),
        ("fsync", f"checkpoints/.tmp-step-000001/{manifest}", size[manifest]),
        ("fsync", "checkpoints/.tmp-step-000001", 0),
        ("rename", "checkpoints/.tmp-step-000001", 0),
        ("fsync", "checkpoints", 0),
        ("fsync", ".", 0),
    ]


def test_writing_copies_no_vector(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    tensors = tensors_of(1_000_000)
    store.write_shard(1, 0, 1, tensors)
    tracemalloc.start()
    try:
        store.write_shard(2, 0, 1, tensors)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 512 * 1024, "the three vectors are 12 MB"


def test_two_servers_write_at_the_same_time(tmp_path: Path) -> None:
    stores = [CheckpointStore(tmp_path, keep=1) for _ in range(2)]
    shards = [tensors_of(1001, seed=shard) for shard in range(2)]
    entries: list[Any] = [None, None]
    for step in range(1, 20):
        start = threading.Barrier(2)

        def write(shard: int, step: int = step, start: threading.Barrier = start) -> None:
            start.wait()
            entries[shard] = stores[shard].write_shard(step, shard, 2, shards[shard])

        threads = [threading.Thread(target=write, args=(shard,)) for shard in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stores[0].commit(step, entries[::-1], {})
    assert steps_in(tmp_path) == ["step-000019"]
    manifest = read_manifest(find_checkpoint(tmp_path))
    assert [file.name for file in manifest.files] == [
        "shard-00-of-02.safetensors",
        "shard-01-of-02.safetensors",
    ]
    whole = np.concatenate([shard["weights"] for shard in shards])
    assert np.array_equal(read_weights(manifest), whole)
    assert np.array_equal(read_shard(manifest, 1)["weights"], shards[1]["weights"])


def test_the_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert store.best() is None
    for step in (100, 200, 300, 400, 500):
        save(store, step)
        if step in (100, 200):
            store.mark_best(step)
    assert store.best() == 200
    assert steps_in(tmp_path) == ["best.json", "step-000200", "step-000400", "step-000500"]
    store.mark_best(500)
    assert steps_in(tmp_path) == ["best.json", "step-000400", "step-000500"]


def test_keep_zero_keeps_all(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=0)
    for step in range(6):
        save(store, step)
    assert len(steps_in(tmp_path)) == 6


def test_a_checkpoint_just_written_survives_higher_ones_of_a_run_resumed_from_before(
    tmp_path: Path,
) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 900)
    save(store, 300)
    assert "step-000300" in steps_in(tmp_path)


def test_the_latest_is_the_highest_number_not_the_last_name(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=0)
    for step in (999_999, 1_000_000, 5):
        save(store, step)
    assert find_checkpoint(tmp_path).name == "step-1000000"


def test_a_step_saved_twice_stays_as_it_was(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert not store.exists(100)
    first = save(store, 100)
    assert store.exists(100)
    before = (first / "checkpoint.json").stat()
    assert save(store, 100, {"other": 1}) == first
    assert (first / "checkpoint.json").stat() == before
    assert steps_in(tmp_path) == ["step-000100"]


def test_a_step_folder_without_a_manifest_does_not_block_its_commit(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    damaged = tmp_path / "checkpoints" / "step-000100"
    (damaged / "inside").mkdir(parents=True)
    (damaged / "shard-00-of-01.safetensors").write_bytes(b"cut off")
    assert not store.exists(100)
    folder = save(store, 100)
    assert folder == damaged
    assert steps_in(tmp_path) == ["step-000100"]
    assert sorted(os.listdir(folder)) == ["checkpoint.json", "shard-00-of-01.safetensors"]
    written = read_weights(read_manifest(folder))
    assert np.array_equal(written, tensors_of(seed=100)["weights"])


def test_only_a_complete_checkpoint_can_be_the_best(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="step-000100 is not complete"):
        CheckpointStore(tmp_path, keep=2).mark_best(100)


@pytest.mark.parametrize("content", ["", "[]", '{"step": "7"}', "{", "\xff", "[" * 100_000])
def test_a_damaged_best_json_is_named_and_prunes_nothing(tmp_path: Path, content: str) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 1)
    (tmp_path / "checkpoints" / "best.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"best\.json"):
        store.best()
    with pytest.raises(CheckpointError, match=r"best\.json"):
        save(store, 2)
    assert steps_in(tmp_path) == ["best.json", "step-000001", "step-000002"]


def test_a_crash_before_the_rename_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    first = save(store, 100)
    entry = store.write_shard(200, 0, 1, tensors_of())
    with monkeypatch.context() as patched:
        # The process is gone: neither the rename nor any cleaning up happens.
        patched.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patched.setattr(CheckpointStore, "discard", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            store.commit(200, [entry], {})
    assert steps_in(tmp_path) == [".tmp-step-000200", "step-000100"]
    assert find_checkpoint(tmp_path) == first
    (tmp_path / "checkpoints" / ".tmp-best.json").write_text("{")
    again = CheckpointStore(tmp_path, keep=2)
    again.discard_leftovers()
    assert steps_in(tmp_path) == ["step-000100"]
    assert find_checkpoint(save(again, 200)).name == "step-000200"


def test_leftovers_of_a_run_without_checkpoints_are_none(tmp_path: Path) -> None:
    CheckpointStore(tmp_path / "run", keep=2).discard_leftovers()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("moment", ["shard", "commit"])
def test_a_disk_that_refuses_is_named_and_costs_no_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, moment: str
) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    first = save(store, 100)

    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    entries = [store.write_shard(200, 0, 1, tensors_of())] if moment == "commit" else []
    attempt = {
        "shard": lambda: store.write_shard(200, 0, 1, tensors_of()),
        "commit": lambda: store.commit(200, entries, {}),
    }[moment]
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(CheckpointError) as caught:
            attempt()
    assert os.strerror(code) in str(caught.value)
    assert "step-000200" in str(caught.value)
    assert steps_in(tmp_path) == ["step-000100"]
    assert np.array_equal(read_weights(read_manifest(first)), tensors_of(seed=100)["weights"])
    assert save(store, 200).name == "step-000200"


def test_a_real_file_size_limit_is_a_checkpoint_error(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from psdp.checkpoint import BackgroundWriter, CheckpointStore, find_checkpoint, read_manifest
from psdp.errors import CheckpointError

run = Path(sys.argv[1])
store = CheckpointStore(run, keep=1)
small, large = ({"weights": np.ones(size, "float32")} for size in (1000, 10_000_000))
store.commit(1, [store.write_shard(1, 0, 1, small)], {})
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
writer = BackgroundWriter()
writer.submit(lambda: store.write_shard(2, 0, 1, large))
try:
    writer.close(timeout_s=30)
except CheckpointError as error:
    print(error)
    print(sorted(path.name for path in (run / "checkpoints").iterdir()))
    print(read_manifest(find_checkpoint(run)).step)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    error, left, latest = done.stdout.splitlines()
    path = tmp_path / "checkpoints" / ".tmp-step-000002" / "shard-00-of-01.safetensors"
    assert f"could not write {path}: File too large" in error
    assert left == "['step-000001']"
    assert latest == "1"
    assert done.stderr == ""


def test_a_failed_shard_leaves_the_other_servers_shard_alone(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.write_shard(5, 0, 2, tensors_of())
    with pytest.raises(AssertionError):
        store.write_shard(5, 1, 2, {"weights": np.ones(4)[::2]})
    temporary = tmp_path / "checkpoints" / ".tmp-step-000005"
    assert os.listdir(temporary) == ["shard-00-of-02.safetensors"]
    store.discard(5)
    assert steps_in(tmp_path) == []


def test_a_shard_that_rank_0_cannot_see_is_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    here = store.write_shard(5, 0, 2, tensors_of())
    elsewhere = CheckpointStore(tmp_path / "other host", keep=1)
    there = elsewhere.write_shard(5, 1, 2, tensors_of())
    with pytest.raises(CheckpointError, match=r"shard-01-of-02.*share"):
        store.commit(5, [here, there], {})
    assert steps_in(tmp_path) == []


def test_a_shard_cut_short_after_it_was_written_is_not_committed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    entry = store.write_shard(5, 0, 1, tensors_of())
    os.truncate(tmp_path / "checkpoints" / ".tmp-step-000005" / entry["name"], 100)
    with pytest.raises(CheckpointError, match="found 100"):
        store.commit(5, [entry], {})


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: [],
        lambda entry: [entry, entry],
        lambda entry: [entry | {"name": "../shard-00-of-01.safetensors"}],
        lambda entry: [entry | {"bytes": "12"}],
        lambda entry: [entry | {"sha256": "0" * 63}],
        lambda entry: [{"name": entry["name"]}],
        lambda entry: ["shard-00-of-01.safetensors"],
        lambda entry: None,
    ],
)
def test_entries_that_are_no_whole_set_of_shards_are_refused(tmp_path: Path, change: Any) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    entry = store.write_shard(5, 0, 1, tensors_of())
    with pytest.raises(CheckpointError, match="step-000005"):
        store.commit(5, change(entry), {})


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(CheckpointError, match="run"):
        CheckpointStore(tmp_path / "run", keep=1).write_shard(1, 0, 1, tensors_of())
