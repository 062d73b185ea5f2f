"""Copies of checkpoints elsewhere are complete or absent, whatever the store does, and the right
ones are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stores import Died, Store, fake_store, refused
from test_store import at, tensors_of

from psdp.checkpoint import (
    Absent,
    CheckpointId,
    CheckpointStore,
    Elsewhere,
    Objects,
    Overtaken,
    fetch_best,
    fetch_newest,
    find_checkpoint,
    newest_at,
    probe,
    read_best,
    read_manifest,
)
from psdp.checkpoint.pieces import index_in, names_of
from psdp.checkpoint.read import verify
from psdp.errors import CheckpointError, ConfigError

URL = "fake://bucket/run"


@pytest.fixture
def store() -> Iterator[type[Store]]:
    with fake_store() as store:
        yield store


class Run:
    """A run folder that grows a checkpoint at a time."""

    def __init__(self, folder: Path, keep: int = 2, servers: int = 2) -> None:
        self.folder = folder
        self.servers = servers
        self.store = CheckpointStore(folder, keep)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock.json").write_text('{"token": "first"}')
        (folder / "config.json").write_text("{}")

    def save(self, step: int, *, best: bool = False) -> None:
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"kind": "train", "version": step}) + "\n")
        shards = range(self.servers)
        files = [
            self.store.write_shard(at(step), shard, self.servers, tensors_of(40, 10 * step + shard))
            for shard in shards
        ]
        self.store.commit(at(step), files, {"version": step})
        if best:
            self.store.mark_best(at(step))

    def elsewhere(self, keep: int = 2) -> Elsewhere:
        return Elsewhere(Objects(URL), self.folder, keep)


def update(elsewhere: Elsewhere) -> list[CheckpointId]:
    return [copied.at for copied in elsewhere.update()]


def copies(store: type[Store]) -> list[str]:
    """Return the names of the copies that seem complete."""
    prefix, end = "bucket/run/checkpoints/", "/checkpoint.json"
    return sorted(
        path.removeprefix(prefix).removesuffix(end)
        for path in store.objects
        if path.startswith(prefix) and path.endswith(end)
    )


def fetched(folder: Path, said: list[str] | None = None) -> Path:
    """Return the newest copy, brought into a new folder with the records."""
    folder.mkdir(parents=True)
    tell = (said if said is not None else []).append
    return fetch_newest(Objects(URL), CheckpointStore(folder, 0), tell, records=True)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_copy_is_what_the_run_folder_holds_and_is_brought_back_bit_for_bit(
    store: type[Store], tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    run.save(5, best=True)
    elsewhere = run.elsewhere()
    assert update(elsewhere) == [at(5)]
    assert update(elsewhere) == []
    run.save(10)
    assert update(elsewhere) == [at(10)]
    there = fetched(tmp_path / "there")
    assert content(there) == content(find_checkpoint(run.folder))
    verify(read_manifest(there))
    metrics = (tmp_path / "there" / "metrics.jsonl").read_bytes()
    assert metrics == (run.folder / "metrics.jsonl").read_bytes()
    assert not (tmp_path / "there" / "config.json").exists()
    back = CheckpointStore(tmp_path / "there", 0)
    fetch_best(Objects(URL), back, pytest.fail)
    assert read_best(tmp_path / "there" / "checkpoints") == at(5)
    verify(read_manifest(tmp_path / "there" / "checkpoints" / at(5).name))


def test_what_is_brought_already_is_not_brought_again(store: type[Store], tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.save(5)
    update(run.elsewhere())
    read: list[str] = []
    store.breaks = staticmethod(lambda _, path: read.append(path))
    here = fetch_newest(Objects(URL), run.store, pytest.fail)
    assert here == find_checkpoint(run.folder)
    assert not any("shard" in path for path in read)


def test_the_latest_and_the_best_are_kept_and_only_their_records(
    store: type[Store], tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    elsewhere = run.elsewhere(keep=2)
    for step in range(1, 40):
        run.save(step, best=step == 3)
        update(elsewhere)
    assert copies(store) == [at(step).name for step in (3, 38, 39)]
    indices = [
        index_in(store.objects[f"bucket/run/checkpoints/{name}/records.json"], name)
        for name in copies(store)
    ]
    pieces = {f"bucket/run/{name}" for index in indices for name in names_of(index)}
    assert pieces == {path for path in store.objects if "/records/" in path}
    assert max(len(index["metrics.jsonl"]) for index in indices) <= 6  # of 39 times more


def test_what_a_job_that_died_left_is_removed_by_the_next(
    store: type[Store], tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", keep=1)
    run.save(5)

    def die(operation: str, path: str) -> None:
        if operation == "write" and path.endswith("checkpoint.json"):
            raise Died

    store.breaks = staticmethod(die)
    with pytest.raises(Died):
        update(run.elsewhere(keep=1))
    left = set(store.objects)
    run.save(6)
    store.breaks = staticmethod(lambda _asked, _path: None)
    update(run.elsewhere(keep=1))
    assert copies(store) == [at(6).name]
    assert set(store.objects) & left == {
        "bucket/run/lock.json",
        *(path for path in left if "/records/config.json." in path),  # sent again as it was
    }


def test_all_are_kept_if_none_is_to_go(store: type[Store], tmp_path: Path) -> None:
    run = Run(tmp_path / "run", keep=0)
    for step in range(1, 6):
        run.save(step)
        update(run.elsewhere(keep=0))  # as a job of its own
    assert copies(store) == [at(step).name for step in range(1, 6)]


def test_a_slow_link_leaves_out_checkpoints_and_is_not_behind_by_more_than_one(
    store: type[Store], tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", keep=1)
    run.save(1)
    elsewhere = run.elsewhere(keep=1)
    later = iter(range(2, 9))

    def meanwhile(operation: str, path: str) -> None:
        if operation == "write" and "shard-00" in path:
            for step in later:
                run.save(step)  # the one that is being copied is let go of

    store.breaks = staticmethod(meanwhile)
    assert update(elsewhere) == [at(1)]
    verify(read_manifest(fetched(tmp_path / "first")))
    assert update(elsewhere) == [at(8)]


@pytest.mark.parametrize("operation", ["write", "close", "info", "cat_file"])
def test_what_the_store_refuses_is_said_in_a_line_and_done_the_next_time(
    store: type[Store], tmp_path: Path, operation: str
) -> None:
    run = Run(tmp_path / "run")
    run.save(5)
    elsewhere = run.elsewhere()

    def refuse(asked: str, path: str) -> None:
        if asked == operation and "step-" in path:
            raise refused(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "breaks", staticmethod(refuse))
        with pytest.raises(CheckpointError, match=r"^fake://bucket/run/.*: Permission denied$"):
            update(elsewhere)
        assert copies(store) == []
    assert update(elsewhere) == [at(5)]
    verify(read_manifest(fetched(tmp_path / "there")))


@pytest.mark.parametrize(
    "cut", ["shard-01-of-02", "records/metrics.jsonl", "records.json", "checkpoint.json", "lock"]
)
def test_what_the_store_cuts_off_in_silence_is_found(
    store: type[Store], tmp_path: Path, cut: str
) -> None:
    run = Run(tmp_path / "run")
    run.save(5)
    elsewhere = run.elsewhere()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "breaks", staticmethod(lambda asked, path: cut in path))
        with pytest.raises(CheckpointError, match=r"damaged: expected|not what was written there"):
            update(elsewhere)
        with pytest.raises(Absent):
            newest_at(Objects(URL))
    assert update(elsewhere) == [at(5)]
    verify(read_manifest(fetched(tmp_path / "there")))


def test_a_damaged_checkpoint_is_not_copied(store: type[Store], tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.save(5)
    shard = find_checkpoint(run.folder) / "shard-01-of-02.safetensors"
    raw = shard.read_bytes()
    shard.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"{shard} is damaged: expected sha256"):
        update(run.elsewhere())
    assert copies(store) == []


def damage(store: type[Store], part: str) -> str:
    """Change a bit of the object of a copy that this is a part of the path of; return which."""
    (path,) = (path for path in store.objects if part in path)
    raw = store.objects[path]
    store.objects[path] = raw[:-20] + bytes([raw[-20] ^ 1]) + raw[-19:]
    return path


@pytest.mark.parametrize("part", ["shard-00-of-02.safetensors", "checkpoint.json"])
def test_a_damaged_copy_is_passed_over_and_said_so(
    store: type[Store], tmp_path: Path, part: str
) -> None:
    run = Run(tmp_path / "run")
    elsewhere = run.elsewhere()
    for step in (5, 10):
        run.save(step)
        update(elsewhere)
    damage(store, f"{at(10).name}/{part}")
    said: list[str] = []
    assert fetched(tmp_path / "there", said).name == at(5).name
    (line,) = said
    where = f"{URL}/checkpoints/{at(10).name}/{part}"
    assert line.startswith(f"passed over a copy that is not whole: {where} ")
    del store.objects[f"bucket/run/checkpoints/{at(5).name}/checkpoint.json"]
    with pytest.raises(CheckpointError) as error:
        fetched(tmp_path / "nowhere")
    assert where in str(error.value)
    assert f"{at(5).name} was not copied to its end" in str(error.value)
    assert list((tmp_path / "nowhere").glob("checkpoints/*")) == []


def test_damaged_records_are_left_out_and_said_so(store: type[Store], tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.save(5)
    update(run.elsewhere())
    piece = damage(store, "records/metrics.jsonl")
    said: list[str] = []
    assert fetched(tmp_path / "there", said).name == at(5).name
    (line,) = said
    assert line.startswith(f"the records before {at(5).name} are not whole: fake://{piece} is ")
    assert not (tmp_path / "there" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "index",
    [
        *('{"../evil": []}', '{"metrics.jsonl": [[0, 5, "beef"]]}', '{"metrics.jsonl": [[0]]}'),
        *("[]", "{", "[" * 100_000, f'{{"metrics.jsonl": [[1, 5, "{"0" * 64}"]]}}'),
    ],
)
def test_an_index_that_is_none_is_refused(index: str) -> None:
    with pytest.raises(CheckpointError, match=r"^it is damaged: "):
        index_in(index.encode(), "it")


def test_a_store_that_cannot_be_reached_is_no_damage(store: type[Store], tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    elsewhere = run.elsewhere()
    for step in (5, 10):
        run.save(step)
        update(elsewhere)

    def refuse(asked: str, path: str) -> None:
        if asked == "cat_file" and at(10).name in path and "shard" in path:
            raise ConnectionError("the link is down")

    store.breaks = staticmethod(refuse)
    with pytest.raises(CheckpointError, match=f"{at(10).name}/shard.*: the link is down"):
        fetched(tmp_path / "there", [])  # and not an older one


def test_of_two_jobs_that_copy_to_one_place_the_first_stops(
    store: type[Store], tmp_path: Path
) -> None:
    first = Run(tmp_path / "first")
    first.save(5)
    late = first.elsewhere()
    update(late)
    second = Run(tmp_path / "second")
    (second.folder / "lock.json").write_text('{"token": "second"}')
    second.save(6)
    update(second.elsewhere())
    before = dict(store.objects)
    first.save(7)
    with pytest.raises(Overtaken, match=f"another job copies to {URL} now"):
        update(late)
    assert copies(store) == [at(5).name, at(6).name]
    assert {path: store.objects[path] for path in before} == before


def test_a_probe_leaves_nothing_and_fails_where_copies_would(store: type[Store]) -> None:
    probe(Objects(URL))
    assert store.objects == {}

    def refuse(asked: str, path: str) -> None:
        raise refused(path)

    store.breaks = staticmethod(refuse)
    with pytest.raises(CheckpointError, match=f"^{URL}/.psdp-probe-.*: Permission denied$"):
        probe(Objects(URL))


@pytest.mark.parametrize(
    ("url", "why"),
    [("nope://a/b", "Protocol not known: nope"), ("gs://a/b", "install gcsfs")],
)
def test_a_protocol_that_there_is_not_is_said_so(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"^{url} cannot be reached: .*{why}"):
        Objects(url)


def test_a_password_in_what_a_store_says_is_masked(store: type[Store]) -> None:
    def refuse(asked: str, path: str) -> None:
        raise OSError("no way to https://me:secret@proxy:80/x?X-Amz-Signature=abc\nnor elsewhere")

    store.breaks = staticmethod(refuse)
    with pytest.raises(CheckpointError) as error:
        Objects(URL).content("it")
    assert str(error.value) == f"{URL}/it: no way to https://***@proxy:80/x?*** nor elsewhere"


FAULTS = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from(["refuse", "cut", "die"])), max_size=8
)


@settings(max_examples=30)
@example(  # a manifest that is there, though it could not be read back
    faults=[(0, "refuse"), (0, "refuse"), (34, "refuse"), (48, "refuse"), (22, "refuse")],
    bests=set(),
    keep=0,
)
@given(faults=FAULTS, bests=st.sets(st.integers(1, 8)), keep=st.sampled_from([0, 1, 2]))
def test_whatever_the_store_does_a_copy_is_whole_or_absent(
    tmp_path_factory: pytest.TempPathFactory,
    faults: list[tuple[int, str]],
    bests: set[int],
    keep: int,
) -> None:
    folder = tmp_path_factory.mktemp("random")
    with fake_store() as store:
        run = Run(folder / "run", keep)
        breaks = scripted(faults)
        store.breaks = staticmethod(breaks)
        elsewhere = run.elsewhere(keep)
        for step in range(1, 9):
            run.save(step, best=step in bests)
            try:
                update(elsewhere)
            except CheckpointError:
                pass
            except Died:
                elsewhere = run.elsewhere(keep)  # of the next job
            see_that_copies_are_whole(store)
        store.breaks = staticmethod(lambda _asked, _path: None)
        update(elsewhere)
        latest = find_checkpoint(run.folder)
        there = fetched(folder / "there")
        assert content(there) == content(latest)
        metrics = (folder / "there" / "metrics.jsonl").read_bytes()
        assert metrics == (run.folder / "metrics.jsonl").read_bytes()
        best = read_best(run.folder / "checkpoints")
        if keep:
            assert set(copies(store)) <= {path.name for path in latest.parent.glob("step-*")} | {
                *sorted(copies(store))[-keep:]
            }
        assert best is None or best.name in copies(store)


def scripted(faults: list[tuple[int, str]]) -> Callable[[str, str], bool | None]:
    """Return what goes wrong so many operations after the one before."""
    script = [(gap, kind) for gap, kind in faults]
    left = [script[0][0]] if script else []

    def breaks(operation: str, path: str) -> bool | None:
        if not script:
            return None
        left[0] -= 1
        if left[0] >= 0:
            return None
        _, kind = script.pop(0)
        left[0] = script[0][0] if script else 0
        if kind == "die":
            raise Died
        if kind == "refuse":
            raise refused(path)
        return True

    return breaks


def see_that_copies_are_whole(store: type[Store]) -> None:
    """See that of every copy whose manifest is whole all files are."""
    for name in copies(store):
        folder = f"bucket/run/checkpoints/{name}"
        try:
            manifest = json.loads(store.objects[f"{folder}/checkpoint.json"])
        except ValueError:
            continue  # cut off
        for file in manifest["files"]:
            raw = store.objects[f"{folder}/{file['name']}"]
            assert (len(raw), hashlib.sha256(raw).hexdigest()) == (file["bytes"], file["sha256"])
