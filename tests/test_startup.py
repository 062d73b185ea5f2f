"""Before the first message: what must be the same on all ranks, and what a resumed run may change.

psdp.startup loads an MPI library, but no job is started here: this process is a world of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psdp.backend.gpu.backend import GpuBackend
from psdp.backend.gpu.dry_device import DryDevice
from psdp.checkpoint import CheckpointStore, Manifest, read_manifest
from psdp.config import Config, settings
from psdp.data.corpus import Corpus, load_corpus
from psdp.errors import CheckpointError, ConfigError, DataError
from psdp.generation import load_model
from psdp.job import Job
from psdp.nn.transformer import parameter_table
from psdp.records.folder import RunFolder

try:
    from psdp.startup.agree import PER_RANK, same_corpus, same_settings, together
    from psdp.startup.device import copies_of_weights, needs_of
    from psdp.startup.folder import config_record, open_folder
    from psdp.startup.on_devices import lack_of_room
    from psdp.startup.prepare import cut_out, place_on_node
    from psdp.startup.resume import (
        CHANGEABLE,
        change_of_schedule,
        check_resumable,
        identity_of,
        settle,
    )
    from psdp.startup.share import Links, links, make_memory, mutual, open_windows
except ConfigError as missing:
    pytest.skip(str(missing), allow_module_level=True)

SMALL: dict[str, Any] = {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 8}


class Case:
    """A run in ``folder`` with a checkpoint at each of ``steps``, as rank 0 would leave it."""

    def __init__(self, folder: Path, steps: tuple[int, ...] = (10,), **given: Any) -> None:
        text = folder.parent / "corpus.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("the quick brown fox jumps over the lazy dog\n" * 20)
        self.folder = folder
        self.given = SMALL | {"corpus": [str(text)], "out": str(folder)} | given
        self.config = Config.from_flat(self.given).resolved()
        self.corpus = load_corpus(self.config.data)
        self.job = self.job_of(3)
        for step in steps:
            self.save(step)

    def job_of(self, world_size: int, **changes: Any) -> Job:
        config = Config.from_flat(self.given | changes).resolved()
        return Job(config, world_size, parameter_table(config.model, self.corpus.vocab_size))

    def save(self, step: int, identity: dict[str, Any] | None = None) -> None:
        store = CheckpointStore(self.folder, keep=0)
        weights = self.job.table.initial(1, "float32")
        file = store.write_shard(step, 0, 1, {"weights": weights})
        identity = identity or identity_of(self.job, self.corpus)
        store.commit(
            step, [file], identity | {"version": step, "tokens": step * self.job.tokens_per_step}
        )

    def checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step-{step:06d}"

    def manifest(self, step: int = 10) -> Manifest:
        return read_manifest(self.checkpoint(step))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path / "run")


# The same on all ranks


def test_equal_settings_agree() -> None:
    flat = Config().resolved().flat()
    same_settings([flat, dict(flat), dict(flat)])


def test_a_rank_with_other_settings_is_named_with_both_values() -> None:
    flat = Config().resolved().flat()
    with pytest.raises(ConfigError) as refused:
        same_settings([flat, flat, flat | {"n_layer": 7}])
    assert str(refused.value) == (
        "rank 2 was started with --n-layer 7, rank 0 with 4; start every rank with the same "
        "settings"
    )


FACTS = {"mpi": "MPI 5", "transport": "mixed", "kernels": ["compiled"] * 3}


def test_hosts_may_differ_in_what_is_theirs() -> None:
    flat = Config().resolved().flat()
    other = flat | {"threads": 3, "device": "gpu", "kernels": "numpy", "corpus": ["/scratch/text"]}
    same_settings([flat, other])
    assert {"threads", "device", "kernels", "corpus"} == PER_RANK


@pytest.mark.parametrize("name", sorted({field.name for _, field in settings()} - PER_RANK))
def test_every_other_setting_is_compared(name: str) -> None:
    flat = Config().resolved().flat()
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} "):
        same_settings([flat, flat | {name: "something else"}])


def test_a_rank_that_read_another_text_is_named() -> None:
    same_corpus(["a" * 64] * 3)
    with pytest.raises(
        DataError, match=r"rank 1 read a corpus with sha256 b{16}\.\.\., rank 0 one"
    ):
        same_corpus(["a" * 64, "b" * 64, "b" * 64])


class Exchange:
    """The world as one rank sees it, when the others report ``others``."""

    def __init__(self, others: list[dict[str, Any]], rank: int = 0) -> None:
        self.rank, self.size = rank, len(others) + 1
        self._others = others

    def exchange(self, data: bytes) -> list[bytes]:
        reports = [json.dumps(report).encode() for report in self._others]
        return [*reports[: self.rank], data, *reports[self.rank :]]


def end_of(world: Any, action: Callable[[], Any]) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        together(world, action)
    return ended.value.code


def fails() -> tuple[None, dict[str, Any]]:
    raise DataError("the corpus is empty")


def test_a_step_together_returns_ones_own_value_and_the_facts_of_all() -> None:
    world: Any = Exchange([{"facts": {"x": 0}}, {"facts": {"x": 2}}], rank=1)
    assert together(world, lambda: ("mine", {"x": 1})) == ("mine", [{"x": 0}, {"x": 1}, {"x": 2}])


def test_an_error_of_all_ranks_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    others = [{"error": "the corpus is empty", "code": 3}] * 3
    assert end_of(Exchange(others), fails) == 3
    assert capsys.readouterr() == ("", "psdp: the corpus is empty\n")


def test_an_error_of_some_ranks_names_them_and_ends_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    no_gpu: dict[str, Any] = {"error": "no GPU", "code": 2}
    others = [no_gpu, {"facts": {}}, no_gpu]
    assert end_of(Exchange(others), lambda: (None, {})) == 2
    assert capsys.readouterr() == ("", "psdp: rank 1, 3: no GPU\n")


def test_only_rank_0_tells(capsys: pytest.CaptureFixture[str]) -> None:
    assert end_of(Exchange([{"facts": {}}], rank=1), fails) == 3
    assert capsys.readouterr() == ("", "")


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
    def asks_for_too_much() -> tuple[None, dict[str, Any]]:
        raise error

    assert end_of(Exchange([{"facts": {}}]), asks_for_too_much) == ConfigError.exit_code == 2
    assert capsys.readouterr().err == (
        f"psdp: rank 0: the settings ask for more memory than there is ({error}); lower --n-layer, "
        "--n-embd, --block-size, --batch-size or --vocab-size\n"
    )


def test_a_table_beyond_any_memory_is_what_numpy_makes_of_it() -> None:
    """Which errors NumPy raises where a size cannot be had; agree.py knows them by their text."""
    for size in (1 << 45, 1 << 61, 1 << 70):
        assert end_of(Exchange([]), lambda size=size: (np.zeros(size), {})) == 2  # type: ignore[misc]


def test_another_value_error_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        together(Exchange([]), lambda: (int("x"), {}))  # type: ignore[arg-type]


def test_a_mistake_of_ours_is_not_made_an_error_of_the_user() -> None:
    with pytest.raises(ZeroDivisionError):
        together(Exchange([]), lambda: (1 // 0, {}))  # type: ignore[arg-type]


# Places on nodes


def node(host: str, *cores: int, threads: int = 0) -> dict[str, Any]:
    settings = {"threads": threads}
    return {"host": host, "cores": list(cores), "cpu_quota": None, "settings": settings}


def test_ranks_are_numbered_and_share_cores_on_each_host() -> None:
    hosts = [node("a", 0, 1, 2, 3), node("b", 0, 1), node("a", 0, 1, 2, 3), node("b", 0, 1)]
    assert [place_on_node(hosts, rank) for rank in range(4)] == [(0, 2), (0, 1), (1, 2), (1, 1)]


def test_a_rank_alone_on_its_host_has_all_cores() -> None:
    assert place_on_node([node("a", 0), node("b", 0, 1, 2)], 1) == (0, 3)


def test_a_rank_that_asks_for_threads_has_them_and_the_others_their_share() -> None:
    hosts = [node("a", 0, 1), node("a", 0, 1, threads=5), node("a", 0, 1)]
    assert [place_on_node(hosts, rank) for rank in range(3)] == [(0, 1), (1, 5), (2, 1)]


# What a worker reads


def test_a_worker_reads_its_partition_and_the_whole_validation_split(case: Case) -> None:
    reads = cut_out(case.corpus, case.config, rank=2, world_size=3)
    assert reads.validation is not None


def test_without_a_validation_split_there_is_none_to_read(case: Case) -> None:
    config = Config.from_flat(case.given | {"val_fraction": 0.0}).resolved()
    assert cut_out(load_corpus(config.data), config, rank=1, world_size=3).validation is None


def test_a_corpus_shorter_than_a_block_is_refused(case: Case) -> None:
    config = Config.from_flat(case.given | {"block_size": 100_000}).resolved()
    with pytest.raises(DataError):
        cut_out(case.corpus, config, rank=1, world_size=3)


# Going on


def test_a_new_run_has_its_own_settings_and_no_checkpoint() -> None:
    config, manifest = settle({"max_steps": 7})
    assert manifest is None
    assert config == Config.from_flat({"max_steps": 7}).resolved()


def test_impossible_settings_are_refused_before_anything_else() -> None:
    with pytest.raises(ConfigError, match="not divisible"):
        settle({"n_embd": 30, "n_head": 4})


@pytest.mark.parametrize("whole", [True, False])
def test_a_resumed_run_has_the_settings_of_its_checkpoint(tmp_path: Path, whole: bool) -> None:
    case = Case(tmp_path / "run", (5, 10), mode="ssp", lr=0.25, warmup_steps=3, quiet=True)
    config, manifest = settle({"resume": str(case.folder if whole else case.checkpoint(5))})
    assert manifest is not None
    assert manifest.step == (10 if whole else 5)
    assert (config.model, config.optim, config.data) == (
        case.config.model, case.config.optim, case.config.data,
    )  # fmt: skip
    assert (config.run.mode, config.run.staleness) == ("ssp", 4)
    assert (config.run.out, config.run.quiet) == (None, False), "of this start, not of the last"


def test_what_was_filled_in_stays_when_the_budget_grows(case: Case) -> None:
    config, _ = settle({"resume": str(case.folder), "max_steps": 5000})
    assert config.run.max_steps == 5000
    assert config.optim.warmup_steps == case.config.optim.warmup_steps == 50


OTHER: dict[str, Any] = {
    "n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 16, "dropout": 0.5, "bias": False,
    "activation": "relu", "position": "rotary", "init": "normal", "tokenizer": "char",
    "vocab_size": 300, "clean": "html", "val_fraction": 0.2, "partition": "hash",
    "optimizer": "sgd", "lr": 0.5, "min_lr": 0.1, "lr_schedule": "linear", "warmup_steps": 1,
    "beta1": 0.5, "beta2": 0.5, "momentum": 0.5, "weight_decay": 0.5, "l1": 0.5, "grad_clip": 0.5,
    "grad_clip_value": 0.5, "mode": "ssp", "staleness": 1, "servers": 2, "max_steps": 7,
    "batch_size": 7, "grad_accum": 7, "eval_every": 7, "eval_batches": 7,
    "early_stop_patience": 7, "out": "elsewhere", "checkpoint_every": 7, "keep_checkpoints": 7,
    "seed": 7, "threads": 7, "transport": "messages", "device": "gpu", "kernels": "numpy",
    "server_device": "gpu", "precision": "bf16", "dtype": "float64", "wire_dtype": "bf16",
    "outer_optimizer": "nesterov", "outer_lr": 0.5, "outer_momentum": 0.5, "elastic_rate": 0.5,
    "local_steps": 7, "merge": "async",
    "backup_workers": 1, "straggler": "2:4", "jitter": "pareto:2", "link_mbps": 7.0,
    "record": True, "lag_compensation": "inverse", "overlap": True,
    "balance": "dynamic",
    "log_every": 7, "profile": True, "quiet": True, "corpus": ["elsewhere"],
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [f.name for _, f in settings() if f.name not in ("resume", "replay")]
)
def test_a_resumed_run_may_change_what_does_not_change_its_weights(case: Case, name: str) -> None:
    given = {"resume": str(case.folder), name: OTHER[name]}
    if name in CHANGEABLE:
        config, _ = settle(given)
        assert config.flat()[name] == OTHER[name]
        return
    with pytest.raises(CheckpointError) as refused:
        settle(given)
    flag = f"--{name.replace('_', '-')} {OTHER[name]} differs from "
    assert str(refused.value).startswith(flag)
    assert f"of the run in {case.folder}; drop the flag" in str(refused.value)


def test_saying_the_same_again_is_no_change(case: Case) -> None:
    given = {name: value for name, value in case.given.items() if name != "out"}
    config, _ = settle(given | {"resume": str(case.folder)})
    assert config.model == case.config.model


def test_nothing_to_go_on_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder"):
        settle({"resume": str(tmp_path / "nowhere")})


def test_a_run_from_before_a_setting_had_its_default(case: Case) -> None:
    """A checkpoint of before --wire-dtype is of float32."""
    identity = identity_of(case.job, case.corpus)
    del identity["settings"]["wire_dtype"]
    case.save(20, identity)
    given = {"resume": str(case.folder)}
    assert settle(given | {"wire_dtype": "float32"})[0].run.wire_dtype == "float32"
    with pytest.raises(CheckpointError, match="--wire-dtype bf16 differs from float32 of the run"):
        settle(given | {"wire_dtype": "bf16"})


def test_a_gpu_needs_room_for_what_it_rounds(case: Case) -> None:
    needed = []
    for wire in ("float32", "bf16"):
        job = case.job_of(3, wire_dtype=wire)
        needs = needs_of(GpuBackend(DryDevice(), "float32"), job, 1, case.corpus.vocab_size)
        assert needs is not None
        needed.append(needs["needed"])
    assert needed[1] - needed[0] == 2 * case.job.table.size


def gpu_needs(job: Job, rank: int, vocab_size: int) -> dict[str, Any]:
    needs = needs_of(GpuBackend(DryDevice(), "float32"), job, rank, vocab_size)
    assert needs is not None
    return needs


@pytest.mark.parametrize(
    ("settings", "copies", "vectors"),
    [
        ({}, 3, 1),
        ({"wire_dtype": "bf16"}, 3, 2),
        ({"mode": "local"}, 3, 1),
        ({"mode": "local", "merge": "async"}, 5, 3),
        ({"backup_workers": 1}, 5, 3),
        ({"mode": "ssp"}, 5, 3),
        ({"mode": "async", "lag_compensation": "dc-asgd"}, 8, 7),
    ],
    ids=str,
)
def test_a_server_on_a_gpu_keeps_each_version_that_may_be_read(
    case: Case, settings: dict[str, Any], copies: int, vectors: int
) -> None:
    job = case.job_of(4, **settings)
    assert copies_of_weights(job) == copies
    needs = gpu_needs(job, 0, case.corpus.vocab_size)
    assert (needs["needed"], needs["vectors"]) == (
        16 * job.table.size,
        4 * vectors * job.table.size,
    )
    assert needs["slot"] == job.wire_dtype.itemsize * job.table.size


def test_a_worker_on_a_gpu_needs_more_for_vectors_only_where_they_travel_meanwhile(
    case: Case,
) -> None:
    for given, vectors in (
        ({}, 0), ({"wire_dtype": "bf16"}, 0), ({"overlap": True}, 2),
        ({"overlap": True, "wire_dtype": "bf16"}, 1),
    ):  # fmt: skip
        job = case.job_of(4, **given)
        needs = gpu_needs(job, 1, case.corpus.vocab_size)
        assert (needs["vectors"], needs["slot"]) == (4 * vectors * job.table.size, 0)


def test_vectors_stay_on_gpus_that_have_room_for_them(case: Case) -> None:
    job = case.job_of(3)

    def lack(shared: set[tuple[int, int]], free: int) -> str | None:
        server = {"name": "A", "needed": 2**30, "vectors": 2**30, "slot": 2**29, "free": free}
        worker = {"name": "A", "needed": 2**30, "vectors": 0, "slot": 0, "free": 2**40}
        needs = [server, worker, worker | {"free": 2**30}]
        return lack_of_room(job, needs, ["a", "a", "b"], frozenset(shared))

    assert lack({(0, 1), (0, 2)}, 3 * 2**30) is None
    assert lack({(0, 1)}, 3 * 2**30) == (
        "A on a would have to hold 3.50 GiB, and has 3.00 GiB free"
    )
    assert lack({(0, 1)}, 7 * 2**29) is None


def test_the_same_job_is_resumable(case: Case) -> None:
    check_resumable(case.job, case.corpus, case.manifest())


def test_another_number_of_workers_is_refused(case: Case) -> None:
    with pytest.raises(CheckpointError, match=r"with 2 workers, this job has 4; start 3 ranks"):
        check_resumable(case.job_of(5), case.corpus, case.manifest())


def test_another_text_is_refused(case: Case) -> None:
    other = Corpus(
        case.corpus.train, case.corpus.val, case.corpus.tokenizer, "f" * 64, (), "other"
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"--corpus has f{16}\.\.\."):
        check_resumable(case.job, other, case.manifest())


def test_another_model_is_refused(case: Case) -> None:
    with pytest.raises(CheckpointError, match="holds other parameters than this version"):
        check_resumable(case.job_of(3, n_layer=2), case.corpus, case.manifest())


def change(case: Case, **given: Any) -> str | None:
    config, manifest = settle({"resume": str(case.folder), **given})
    assert manifest is not None
    return change_of_schedule(replace(case.job, config=config), manifest)


def test_what_another_number_of_steps_makes_of_the_learning_rate_is_said(tmp_path: Path) -> None:
    linear = {"lr_schedule": "linear", "lr": 1.0, "min_lr": 0.0, "warmup_steps": 0}
    case = Case(tmp_path / "run", max_steps=20, **linear)  # of which 10 are done
    assert change(case, max_steps=40) == (
        "--max-steps 40 stretches the schedule, which was one of 20 steps: the learning rate jumps "
        "from 5.00e-01 to 7.50e-01"
    )
    assert change(case, max_steps=16) == (
        "--max-steps 16 shortens the schedule, which was one of 20 steps: the learning rate jumps "
        "from 5.00e-01 to 3.75e-01"
    )
    assert change(case) is None
    assert change(case, max_steps=20) is None


def test_a_schedule_without_an_end_does_not_change(tmp_path: Path) -> None:
    case = Case(tmp_path / "run", max_steps=20, lr_schedule="constant")
    assert change(case, max_steps=40) is None


def test_what_a_checkpoint_says_of_its_job_is_all_that_generate_needs(case: Case) -> None:
    tokenizer, decoder = load_model(case.checkpoint(10), "cpu")
    assert tokenizer == case.corpus.tokenizer
    assert decoder.feed(np.array([1, 2, 3])).shape == (256,)


# The run folder


def test_config_json_can_be_written_whatever_bytes_the_name_of_a_corpus_has(case: Case) -> None:
    text = case.folder / os.fsdecode(b"caf\xe9.txt")
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    case.given["corpus"] = [str(text)]
    job = case.job_of(3)
    corpus, folder = load_corpus(job.config.data), RunFolder(case.folder)
    hosts = [node("a", 0), node("a", 0), node("a", 0)]
    folder.write_config(config_record(job, corpus, folder, hosts, [(0, 1)] * 3, FACTS))
    assert json.loads((case.folder / "config.json").read_text("utf-8"))


def test_a_new_run_makes_the_folder_that_it_was_told(tmp_path: Path) -> None:
    folder = open_folder(Config.from_flat({"out": str(tmp_path / "mine")}), None)
    assert folder.path == tmp_path / "mine"
    assert folder.path.is_dir()


def test_a_run_without_a_name_is_called_after_its_time_and_mode_and_no_two_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("psdp.startup.folder.time.strftime", lambda _: "20260102-030405")
    config = Config.from_flat({"mode": "async"})
    paths = [str(open_folder(config, None).path) for _ in range(3)]
    stem = "runs/20260102-030405-async"
    assert paths == [stem, f"{stem}-1", f"{stem}-2"]


def test_going_on_from_the_latest_checkpoint_goes_on_in_its_folder(tmp_path: Path) -> None:
    case = Case(tmp_path / "run", (5, 10))
    for out in (None, str(case.folder), f"{case.folder}/../run"):
        assert open_folder(Config.from_flat({"out": out}), case.manifest()).path == case.folder


def test_going_on_from_an_earlier_checkpoint_leaves_the_later_ones_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    case = Case(tmp_path / "run", (5, 10))
    with pytest.raises(ConfigError, match="holds checkpoints later than step-000005"):
        open_folder(Config.from_flat({"out": str(case.folder)}), case.manifest(5))
    new = open_folder(Config(), case.manifest(5)).path
    assert new.parent == Path("runs")
    branch = open_folder(Config.from_flat({"out": "branch"}), case.manifest(10)).path
    assert branch == Path("branch")


def test_going_on_elsewhere_spares_another_run_there(tmp_path: Path) -> None:
    case, other = Case(tmp_path / "run"), tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds another run"):
        open_folder(Config.from_flat({"out": str(other)}), case.manifest())


def test_config_json_says_all_that_repeats_a_run(case: Case) -> None:
    hosts = [node("a", 0, 1), node("b", 0), node("b", 0)]
    folder, places = RunFolder(case.folder), [(0, 2), (0, 1), (1, 1)]
    record = json.loads(
        json.dumps(config_record(case.job, case.corpus, folder, hosts, places, FACTS))
    )
    assert record["transport"] == "mixed"
    assert Config.from_flat(record["settings"]) == case.config
    assert record["threads"] == [2, 1, 1]
    assert (record["workers"], record["servers"], record["hosts"]) == (2, 1, ["a", "b", "b"])
    assert record["parameters"] == case.job.table.size
    assert record["corpus"]["sha256"] == case.corpus.sha256
    assert record["corpus"]["train_tokens"] + record["corpus"]["val_tokens"] == 880
    assert record["versions"]["mpi"] == "MPI 5"
    assert all(isinstance(version, str) for version in record["versions"].values())


# Who shares memory


def test_ranks_that_open_each_others_memory_share_it(case: Case) -> None:
    job = case.job_of(3)
    both = links(job, [[1, 2], [0], [0]], [])
    assert (both.name, both.describe()) == ("shared", "vectors in shared memory")
    one = links(job, [[1, 2], [0], []], ["rank 2 cannot open the memory of rank 0: no"])
    assert (one.name, one.shared) == ("mixed", {(0, 1)})
    assert one.describe() == (
        "vectors of 1 of 2 server-worker pairs in shared memory, others as MPI messages "
        "(rank 2 cannot open the memory of rank 0: no)"
    )
    without = links(job, [[], [], []], [], "worker 2 computes on a CPU")
    assert without.describe() == (
        "vectors as MPI messages, not in GPU memory (worker 2 computes on a CPU)"
    )


def test_vectors_on_gpus_are_told_from_those_on_hosts() -> None:
    pairs = [(0, 1), (0, 2)]
    kinds = [Links(frozenset(pairs[:count]), 2, None, on_devices=True) for count in range(3)]
    assert [kind.name for kind in kinds] == ["gpu messages", "gpu mixed", "gpu shared"]


def test_insisting_on_shared_memory_where_there_is_none_is_an_error(case: Case) -> None:
    job = case.job_of(3, transport="shared")
    assert links(job, [[1, 2], [0], [0]], []).name == "shared"
    with pytest.raises(ConfigError, match=r"worker 2 share no memory \(they are on diff"):
        links(job, [[1], [0], []], [])
    with pytest.raises(ConfigError, match=r"share no memory \(rank 1 cannot"):
        links(job, [[], [], []], ["rank 1 cannot open the memory of rank 0: Permission denied"])


def test_only_ranks_of_the_same_host_name_look_at_one_anothers_memory(case: Case) -> None:
    job = case.job_of(3)
    memories = [make_memory(job, rank) for rank in range(3)]
    cards = []
    for rank, memory in enumerate(memories):
        assert memory is not None
        size = len(job.shards[rank]) if rank == 0 else job.table.size
        cards.append(memory.card(memory.zeros(size, "float32")))
    windows, refused = open_windows(job, 0, ["a", "a", "b"], cards)
    assert (list(windows), refused) == ([1], {})
    windows, refused = open_windows(job, 1, ["a", "a", "a"], cards)
    assert (list(windows), refused) == ([0], {}), "workers exchange nothing with one another"
    assert mutual(windows, 1, [[1], [0], []]) == windows
    assert mutual(windows, 1, [[2], [0], []]) == {}


def test_another_container_of_the_same_name_is_told_apart(case: Case) -> None:
    """Its process numbers mean other processes here, or none."""
    job = case.job_of(2)
    memory = make_memory(job, 0)
    assert memory is not None
    card = memory.card(memory.zeros(10, "float32"))
    assert card is not None
    for elsewhere in (card | {"pid": 1 << 22}, card | {"name": "psdp-another"}):
        windows, refused = open_windows(job, 1, ["a", "a"], [elsewhere, card])
        assert windows == {}
        assert refused[0].startswith("rank 1 cannot open the memory of rank 0: ")


def test_without_shared_memory_none_is_made(case: Case) -> None:
    assert make_memory(case.job_of(2, transport="messages"), 0) is None
