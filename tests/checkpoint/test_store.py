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
    CheckpointId,
    CheckpointStore,
    find_checkpoint,
    read_attached,
    read_best,
    read_manifest,
    read_shard,
    read_weights,
)
from psdp.checkpoint.read import verify
from psdp.errors import CheckpointError, NumericsError
from psdp.params import Array


def tensors_of(size: int = 1000, seed: int = 0, dtype: str = "float32") -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    names = ("weights", "optimizer.exp_avg", "optimizer.exp_avg_sq")
    return {name: rng.standard_normal(size).astype(dtype) for name in names}


def at(step: int) -> CheckpointId:
    return CheckpointId(step, step)


def save(store: CheckpointStore, step: int, state: dict[str, Any] | None = None) -> Path:
    entry = store.write_shard(at(step), 0, 1, tensors_of(seed=step))
    return store.commit(at(step), [entry], state or {})


def steps_in(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_a_text_of_the_state_may_be_a_file_of_its_own(tmp_path: Path) -> None:
    state = {"a": 1, "attached": {"tokenizer.json": "{é}"}}
    folder = save(CheckpointStore(tmp_path, keep=3), 5, state)
    manifest = read_manifest(folder)
    assert manifest.state == {"a": 1}
    assert (folder / "tokenizer.json").read_text("utf-8") == "{é}"
    assert read_attached(manifest, "tokenizer.json") == "{é}"
    assert [file.name for file in manifest.all_files][1:] == ["tokenizer.json"]
    with pytest.raises(CheckpointError, match=r"has no other\.json"):
        read_attached(manifest, "other.json")
    (folder / "tokenizer.json").write_text("{e}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is damaged"):
        verify(manifest)
    with pytest.raises(CheckpointError):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_was_written_is_read_back_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    counters = {"progress": np.array([100, 7680]), "clocks": np.array([[1, 50], [2, 50]])}
    tensors = tensors_of(dtype=dtype) | counters
    state = {"updates": 100, "clocks": {"1": 50, "2": 50}, "best_loss": 2.5, "name": "é"}
    folder = store.commit(at(100), [store.write_shard(at(100), 0, 1, tensors)], state)
    assert folder == tmp_path / "checkpoints" / "step-000100-v000100"
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
    folder = store.commit(at(1), [store.write_shard(at(1), 0, 1, tensors)], {})
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
        folder = store.commit(at(7), [store.write_shard(at(7), 0, 1, order)], {"loss": 0.1})
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
    size = {path.name: path.stat().st_size for path in (root / "step-000001-v000001").iterdir()}
    shard, manifest = "shard-00-of-01.safetensors", "checkpoint.json"
    assert done == [
        ("fsync", f"checkpoints/.tmp-step-000001-v000001/{shard}", size[shard]),
        ("fsync", f"checkpoints/.tmp-step-000001-v000001/{manifest}", size[manifest]),
        ("fsync", "checkpoints/.tmp-step-000001-v000001", 0),
        ("rename", "checkpoints/.tmp-step-000001-v000001", 0),
        ("fsync", "checkpoints", 0),
        ("fsync", ".", 0),
    ]


def test_writing_copies_no_vector(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    tensors = tensors_of(1_000_000)
    store.write_shard(at(1), 0, 1, tensors)
    tracemalloc.start()
    try:
        store.write_shard(at(2), 0, 1, tensors)
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
            entries[shard] = stores[shard].write_shard(at(step), shard, 2, shards[shard])

        threads = [threading.Thread(target=write, args=(shard,)) for shard in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stores[0].commit(at(step), entries[::-1], {})
    assert steps_in(tmp_path) == ["step-000019-v000019"]
    manifest = read_manifest(find_checkpoint(tmp_path))
    assert [file.name for file in manifest.files] == [
        "shard-00-of-02.safetensors",
        "shard-01-of-02.safetensors",
    ]
    whole = np.concatenate([shard["weights"] for shard in shards])
    assert np.array_equal(read_weights(manifest), whole)
    assert np.array_equal(read_shard(manifest, 1)["weights"], shards[1]["weights"])


def test_the_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    store, root = CheckpointStore(tmp_path, keep=2), tmp_path / "checkpoints"
    assert read_best(root) is None
    for step in (100, 200, 300, 400, 500):
        save(store, step)
        if step in (100, 200):
            store.mark_best(at(step))
    assert read_best(root) == at(200)
    assert steps_in(tmp_path) == [
        "best.json",
        "step-000200-v000200",
        "step-000400-v000400",
        "step-000500-v000500",
    ]
    store.mark_best(at(500))
    assert steps_in(tmp_path) == ["best.json", "step-000400-v000400", "step-000500-v000500"]


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
    assert "step-000300-v000300" in steps_in(tmp_path)


def test_the_latest_is_the_highest_number_not_the_last_name(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=0)
    for step in (999_999, 1_000_000, 5):
        save(store, step)
    assert find_checkpoint(tmp_path).name == "step-1000000-v1000000"


def test_a_step_saved_twice_stays_as_it_was(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert not store.exists(at(100))
    first = save(store, 100)
    assert store.exists(at(100))
    before = (first / "checkpoint.json").stat()
    assert save(store, 100, {"other": 1}) == first
    assert (first / "checkpoint.json").stat() == before
    assert steps_in(tmp_path) == ["step-000100-v000100"]


def test_a_step_folder_without_a_manifest_does_not_block_its_commit(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    damaged = tmp_path / "checkpoints" / "step-000100-v000100"
    (damaged / "inside").mkdir(parents=True)
    (damaged / "shard-00-of-01.safetensors").write_bytes(b"cut off")
    assert not store.exists(at(100))
    folder = save(store, 100)
    assert folder == damaged
    assert steps_in(tmp_path) == ["damaged-step-000100-v000100", "step-000100-v000100"]
    assert sorted(os.listdir(folder)) == ["checkpoint.json", "shard-00-of-01.safetensors"]
    written = read_weights(read_manifest(folder))
    assert np.array_equal(written, tensors_of(seed=100)["weights"])


def test_only_a_complete_checkpoint_can_be_the_best(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="step-000100-v000100 is not complete"):
        CheckpointStore(tmp_path, keep=2).mark_best(at(100))


@pytest.mark.parametrize("content", ["", "[]", '{"step": "7"}', "{", "\xff", "[" * 100_000])
def test_a_damaged_best_json_is_named_and_prunes_nothing(tmp_path: Path, content: str) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 1)
    (tmp_path / "checkpoints" / "best.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"best\.json"):
        read_best(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"best\.json"):
        save(store, 2)
    assert steps_in(tmp_path) == ["best.json", "step-000001-v000001", "step-000002-v000002"]


def test_a_crash_before_the_rename_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    first = save(store, 100)
    entry = store.write_shard(at(200), 0, 1, tensors_of())
    with monkeypatch.context() as patched:
        # The process is gone: neither the rename nor any cleaning up happens.
        patched.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patched.setattr(CheckpointStore, "discard", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            store.commit(at(200), [entry], {})
    assert steps_in(tmp_path) == [".tmp-step-000200-v000200", "step-000100-v000100"]
    assert find_checkpoint(tmp_path) == first
    (tmp_path / "checkpoints" / ".tmp-best.json").write_text("{")
    again = CheckpointStore(tmp_path, keep=2)
    assert again.take_over() is None
    assert steps_in(tmp_path) == ["step-000100-v000100"]
    assert find_checkpoint(save(again, 200)).name == "step-000200-v000200"


def test_leftovers_of_a_run_without_checkpoints_are_none(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "run", keep=2).take_over() is None


def test_versions_of_one_step_share_no_folder(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=0)
    versions = [CheckpointId(12, version) for version in (36, 37, 38)]
    # All of them are written before the first is complete, as where the disk is behind.
    entries = {v: store.write_shard(v, 0, 1, tensors_of(seed=v.version)) for v in versions}
    for version in reversed(versions):
        folder = store.commit(version, [entries[version]], {})
        read = read_weights(read_manifest(folder))
        assert np.array_equal(read, tensors_of(seed=version.version)["weights"])
    assert find_checkpoint(tmp_path).name == "step-000012-v000038"
    store.mark_best(versions[1])
    assert read_best(tmp_path / "checkpoints") == versions[1]


def test_what_a_job_that_woke_up_late_writes_mixes_with_nothing(tmp_path: Path) -> None:
    def taken_over() -> None:
        raise CheckpointError("another job has it")

    late = CheckpointStore(tmp_path, keep=1, token="late", check=taken_over)
    store = CheckpointStore(tmp_path, keep=1, token="present")
    entry = store.write_shard(at(7), 0, 1, tensors_of(seed=7))
    theirs = late.write_shard(at(7), 0, 1, tensors_of(seed=8))
    with pytest.raises(CheckpointError, match="another job has it"):
        late.commit(at(7), [theirs], {})
    folder = store.commit(at(7), [entry], {})
    assert np.array_equal(read_weights(read_manifest(folder)), tensors_of(seed=7)["weights"])
    with pytest.raises(CheckpointError, match="another job has it"):
        late.mark_best(at(7))
    assert read_best(tmp_path / "checkpoints") is None
    late.write_shard(at(8), 0, 1, tensors_of())
    store.take_over(at(7))
    assert steps_in(tmp_path) == ["step-000007-v000007"]


def test_later_ones_that_are_damaged_are_out_of_the_way_of_whoever_takes_over(
    tmp_path: Path,
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (5, 6, 7):
        save(store, step)
    for _ in range(2):
        assert store.take_over(at(6)) is None
        save(store, 7)
    assert steps_in(tmp_path) == [
        "damaged-2-step-000007-v000007", "damaged-step-000007-v000007",
        "step-000006-v000006", "step-000007-v000007",
    ]  # fmt: skip


def test_a_best_that_is_damaged_is_not_mistaken_for_a_later_one_of_its_name(tmp_path: Path) -> None:
    store, root = CheckpointStore(tmp_path, keep=2), tmp_path / "checkpoints"
    for step in (5, 6, 7):
        save(store, step)
    store.mark_best(at(7))
    assert store.take_over(at(7)) is None
    lost = f"{root / at(7).name} was the best checkpoint, and is not whole any more"
    assert store.take_over(at(6)) == lost
    save(store, 7)
    assert read_best(root) is None


@pytest.mark.parametrize("name", ["weights", "optimizer.exp_avg_sq"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 262_144, 299_999])
def test_what_is_not_finite_is_not_written(
    tmp_path: Path, name: str, value: float, place: int
) -> None:
    store, tensors = CheckpointStore(tmp_path, keep=1), tensors_of(300_000)
    tensors[name][place] = value
    with pytest.raises(NumericsError, match=f"'{name}' holds NaN or Inf"):
        store.write_shard(at(3), 0, 1, tensors)
    assert steps_in(tmp_path) == []


def test_folders_of_before_they_named_versions_are_read(tmp_path: Path) -> None:
    store, root = CheckpointStore(tmp_path, keep=2), tmp_path / "checkpoints"
    save(store, 100).rename(root / "step-000100")
    save(store, 110).rename(root / "step-000110")
    (root / "best.json").write_text('{"step": 100}\n')
    assert read_best(root) == CheckpointId(100)
    assert find_checkpoint(tmp_path) == root / "step-000110"
    assert save(store, 110).name == "step-000110-v000110"
    assert find_checkpoint(tmp_path) == root / "step-000110-v000110"
    assert steps_in(tmp_path) == [
        "best.json", "step-000100", "step-000110", "step-000110-v000110",
    ]  # fmt: skip


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("moment", ["shard", "commit"])
def test_a_disk_that_refuses_is_named_and_costs_no_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, moment: str
) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    first = save(store, 100)

    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    entries = [store.write_shard(at(200), 0, 1, tensors_of())] if moment == "commit" else []
    attempt = {
        "shard": lambda: store.write_shard(at(200), 0, 1, tensors_of()),
        "commit": lambda: store.commit(at(200), entries, {}),
    }[moment]
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(CheckpointError) as caught:
            attempt()
    assert os.strerror(code) in str(caught.value)
    assert "step-000200-v000200" in str(caught.value)
    assert steps_in(tmp_path) == ["step-000100-v000100"]
    assert np.array_equal(read_weights(read_manifest(first)), tensors_of(seed=100)["weights"])
    assert save(store, 200).name == "step-000200-v000200"


def test_a_real_file_size_limit_is_a_checkpoint_error(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from psdp.checkpoint import BackgroundWriter, CheckpointId, CheckpointStore
from psdp.checkpoint import find_checkpoint, read_manifest
from psdp.errors import CheckpointError

run = Path(sys.argv[1])
store = CheckpointStore(run, keep=1)
small, large = ({"weights": np.ones(size, "float32")} for size in (1000, 10_000_000))
store.commit(CheckpointId(1, 1), [store.write_shard(CheckpointId(1, 1), 0, 1, small)], {})
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
writer = BackgroundWriter()
writer.submit(lambda: store.write_shard(CheckpointId(2, 2), 0, 1, large))
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
    path = tmp_path / "checkpoints" / ".tmp-step-000002-v000002" / "shard-00-of-01.safetensors"
    assert f"could not write {path}: File too large" in error
    assert left == "['step-000001-v000001']"
    assert latest == "1"
    assert done.stderr == ""


def test_a_failed_shard_leaves_the_other_servers_shard_alone(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.write_shard(at(5), 0, 2, tensors_of())
    with pytest.raises(AssertionError):
        store.write_shard(at(5), 1, 2, {"weights": np.ones(4)[::2]})
    temporary = tmp_path / "checkpoints" / ".tmp-step-000005-v000005"
    assert os.listdir(temporary) == ["shard-00-of-02.safetensors"]
    store.discard(at(5))
    assert steps_in(tmp_path) == []


def test_a_shard_that_rank_0_cannot_see_is_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    here = store.write_shard(at(5), 0, 2, tensors_of())
    elsewhere = CheckpointStore(tmp_path / "other host", keep=1)
    there = elsewhere.write_shard(at(5), 1, 2, tensors_of())
    with pytest.raises(CheckpointError, match=r"shard-01-of-02.*share"):
        store.commit(at(5), [here, there], {})
    assert steps_in(tmp_path) == []


def test_a_worker_writes_into_no_folder_that_nobody_else_sees(tmp_path: Path) -> None:
    elsewhere = CheckpointStore(tmp_path / "other host", keep=1)
    with pytest.raises(CheckpointError, match=r"no .*other host; .* on a disk that they share"):
        elsewhere.write_worker(at(5), 1, tensors_of())
    assert list(tmp_path.iterdir()) == []


def test_whether_rank_0_sees_a_file_is_known_before_it_is_committed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    entry = store.write_worker(at(5), 3, tensors_of())
    assert store.why_unseen(at(5), entry) is None
    assert "cannot see" in str(store.why_unseen(at(6), entry))
    assert "wrote 1 bytes" in str(store.why_unseen(at(5), entry | {"bytes": 1}))


def test_files_of_workers_are_pruned_with_their_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    for step in (1, 2):
        shard = store.write_shard(at(step), 0, 1, tensors_of())
        workers = {1: store.write_worker(at(step), 1, tensors_of())}
        folder = store.commit(at(step), [shard], {}, workers=workers)
    assert steps_in(tmp_path) == ["step-000002-v000002"]
    assert (folder / "worker-0001.safetensors").is_file()


def test_a_shard_cut_short_after_it_was_written_is_not_committed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    entry = store.write_shard(at(5), 0, 1, tensors_of())
    os.truncate(tmp_path / "checkpoints" / ".tmp-step-000005-v000005" / entry["name"], 100)
    with pytest.raises(CheckpointError, match="found 100"):
        store.commit(at(5), [entry], {})


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
    entry = store.write_shard(at(5), 0, 1, tensors_of())
    with pytest.raises(CheckpointError, match="step-000005-v000005"):
        store.commit(at(5), change(entry), {})


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(CheckpointError, match="run"):
        CheckpointStore(tmp_path / "run", keep=1).write_shard(at(1), 0, 1, tensors_of())
