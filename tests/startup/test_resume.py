"""What a resumed run may change, and of which job a checkpoint is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_run import SavedRun

from psdp.checkpoint import Manifest, find_checkpoint
from psdp.config import Config, settings
from psdp.errors import CheckpointError, ConfigError
from psdp.generation import load_model
from psdp.job import Job
from psdp.startup.resume import (
    CHANGEABLE,
    changes,
    check_resumable,
    describe_changes,
    identity_of,
    settle,
)


def resume(given: dict[str, Any]) -> tuple[Config, Manifest | None]:
    return settle(given, find_checkpoint(Path(given["resume"])))


def test_a_new_run_has_its_own_settings_and_no_checkpoint() -> None:
    config, manifest = settle({"max_steps": 7})
    assert manifest is None
    assert config == Config.from_flat({"max_steps": 7}).resolved()


def test_impossible_settings_are_refused_before_anything_else() -> None:
    with pytest.raises(ConfigError, match="not divisible"):
        settle({"n_embd": 30, "n_head": 4})


@pytest.mark.parametrize("whole", [True, False])
def test_a_resumed_run_has_the_settings_of_its_checkpoint(tmp_path: Path, whole: bool) -> None:
    case = SavedRun(tmp_path / "run", (5, 10), mode="ssp", lr=0.25, warmup_steps=3, quiet=True)
    config, manifest = resume({"resume": str(case.folder if whole else case.checkpoint(5))})
    assert manifest is not None
    assert manifest.step == (10 if whole else 5)
    assert (config.model, config.optim, config.data) == (
        case.config.model, case.config.optim, case.config.data,
    )  # fmt: skip
    assert (config.run.mode, config.run.staleness) == ("ssp", 4)
    assert (config.run.out, config.run.quiet) == (None, False), "of this start, not of the last"


def test_what_was_filled_in_stays_when_the_budget_grows(case: SavedRun) -> None:
    config, _ = resume({"resume": str(case.folder), "max_steps": 5000})
    assert config.run.max_steps == 5000
    assert config.optim.warmup_steps == case.config.optim.warmup_steps == 50


OTHER: dict[str, Any] = {
    "n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 16, "dropout": 0.5, "bias": False,
    "architecture": "other", "norm": "other",
    "preset": "llama", "n_kv_head": 2, "qk_norm": True, "value_embeddings": True, "mlp_width": 7,
    "rope_theta": 7.0, "rotary_dims": 4, "norm_eps": 0.5, "parallel_residual": True,
    "tied_head": False, "logit_softcap": 7.0, "zero_init": True,
    "activation": "relu", "position": "rotary", "init": "normal", "tokenizer": "char",
    "vocab_size": 300, "clean": "html", "val_fraction": 0.2, "partition": "hash",
    "decay_fraction": 0.5, "decay_shape": "1-sqrt", "muon_momentum": 0.5, "adamw_lr_ratio": 0.5,
    "optimizer": "sgd", "lr": 0.5, "min_lr": 0.1, "lr_schedule": "linear", "warmup_steps": 1,
    "beta1": 0.7, "beta2": 0.5, "momentum": 0.5, "weight_decay": 0.5, "l1": 0.5, "grad_clip": 0.5,
    "grad_clip_value": 0.5, "mode": "ssp", "staleness": 1, "servers": 2, "max_steps": 7,
    "batch_size": 7, "grad_accum": 7, "eval_every": 7, "eval_batches": 7,
    "early_stop_patience": 7, "out": "elsewhere", "checkpoint_every": 7, "keep_checkpoints": 7,
    "seed": 7, "threads": 7, "transport": "messages", "device": "gpu", "kernels": "numpy",
    "server_device": "gpu", "precision": "bf16", "dtype": "float64", "wire_dtype": "bf16",
    "outer_optimizer": "nesterov", "outer_lr": 0.5, "outer_momentum": 0.25, "elastic_rate": 0.5,
    "local_steps": 7, "merge": "async",
    "keep_inner": True,  # of what has a meaning in other modes alone it is all that can be changed
    "backup_workers": 1, "straggler": "2:4", "jitter": "pareto:2", "link_mbps": 7.0,
    "slow_link": "7@7s-8s",
    "standby": True, "record": True, "lag_compensation": "inverse", "overlap": True,
    "balance": "dynamic", "virtual_workers": 7, "spares": 1,
    "checkpoint_to": "s3://elsewhere/run", "log_every": 7, "max_time": "7m", "max_failures": 7,
    "profile": True, "quiet": True, "trace": True, "track": ["mine:Tracker"],
    "corpus": ["elsewhere"],
    "val_corpus": ["elsewhere"], "token_dtype": "uint8",
    "text_field": "body",
    "document_separator": "x", "init_from": "elsewhere", "window": "document",
    "prompt_field": "asked", "prompt_separator": "y", "label_smoothing": 0.5,
    "ema": 0.5, "raw_weights": True,
    "sample_every": 500, "sample_prompt": "x", "sample_tokens": 7,
}  # fmt: skip


NEEDED: dict[str, dict[str, Any]] = {
    "slow_link": {"link_mbps": 7.0},
    "min_lr": {"lr": 0.5},
    "prompt_field": {"prompt_separator": "y", "window": "document"},
    "prompt_separator": {"window": "document"},
}
"""With which a setting has a meaning."""

MEANT: dict[str, dict[str, Any]] = {
    "outer_lr": {"mode": "local"},
    "outer_momentum": {"mode": "local"},
    "elastic_rate": {"mode": "easgd"},
}
"""In which runs alone one has."""


@pytest.mark.parametrize(
    "name", [f.name for _, f in settings() if f.name not in ("resume", "replay")]
)
def test_a_resumed_run_may_change_what_does_not_change_its_past(tmp_path: Path, name: str) -> None:
    case = SavedRun(tmp_path / "run", **MEANT.get(name, {}))
    given = {"resume": str(case.folder), name: OTHER[name], **NEEDED.get(name, {})}
    if name in CHANGEABLE:
        config, _ = resume(given)
        assert config.flat()[name] == OTHER[name]
        return
    with pytest.raises(CheckpointError) as refused:
        resume(given)
    flag = f"--{name.replace('_', '-')} {OTHER[name]} differs from "
    assert str(refused.value).startswith(flag)
    assert f"of the run in {case.folder}; drop the flag" in str(refused.value)
    assert f"(--init-from {case.folder}: with its weights)" in str(refused.value)


def test_what_a_run_had_beside_its_preset_it_has_again(case: SavedRun) -> None:
    """The case has learned positions, which nanochat has not."""
    case.save(20, identity_of(case.job, case.config.flat() | {"preset": "nanochat"}))
    config, _ = resume({"resume": str(case.folder), "preset": "nanochat"})
    assert config.model == replace(case.config.model, preset="nanochat")


def test_a_value_that_was_called_otherwise_is_the_same(case: SavedRun) -> None:
    identity = identity_of(case.job, case.config.flat() | {"norm": "layer"})
    case.save(20, identity)
    config, _ = resume({"resume": str(case.folder), "norm": "layernorm"})
    assert config.model == case.config.model


def test_saying_the_same_again_is_no_change(case: SavedRun) -> None:
    given = {name: value for name, value in case.given.items() if name != "out"}
    config, _ = resume(given | {"resume": str(case.folder)})
    assert config.model == case.config.model


def test_a_run_from_before_a_setting_had_its_default(case: SavedRun) -> None:
    """A checkpoint of before --wire-dtype is of float32."""
    identity = identity_of(case.job, case.config.flat())
    del identity["settings"]["wire_dtype"]
    case.save(20, identity)
    given = {"resume": str(case.folder)}
    assert resume(given | {"wire_dtype": "float32"})[0].run.wire_dtype == "float32"
    with pytest.raises(CheckpointError, match="--wire-dtype bf16 differs from float32 of the run"):
        resume(given | {"wire_dtype": "bf16"})


def test_the_same_job_is_resumable(case: SavedRun) -> None:
    check_resumable(case.job, case.manifest())


def test_on_other_ranks_there_are_as_many_workers_as_before(case: SavedRun) -> None:
    config, _ = resume({"resume": str(case.folder)})
    for ranks in (2, 3, 6):
        job = Job(config, ranks, case.job.task)
        assert len(job.workers) == len(case.job.workers) == 2
        assert job.gradients == case.job.gradients


def test_another_text_is_refused(case: SavedRun) -> None:
    case.corpus = replace(case.corpus, sha256="f" * 64)
    with pytest.raises(CheckpointError, match=r"--corpus has f{16}\.\.\."):
        check_resumable(case.job_of(3), case.manifest())


def test_the_files_that_changed_are_named_where_the_run_folder_tells_of_them(
    case: SavedRun,
) -> None:
    (case.folder / "config.json").write_text(json.dumps(case.job.task.record()))
    check_resumable(case.job, case.manifest())
    (name,) = case.corpus.sources
    case.corpus = replace(case.corpus, sha256="f" * 64, checks=("0" * 8,))
    message = rf"--corpus has f{{16}}\.\.\. \(changed: {name}\); give it the files as they were"
    with pytest.raises(CheckpointError, match=message):
        check_resumable(case.job_of(3), case.manifest())


def test_another_model_is_refused(case: SavedRun) -> None:
    with pytest.raises(CheckpointError, match="holds other parameters than this version"):
        check_resumable(case.job_of(3, n_layer=2), case.manifest())


def described(case: SavedRun, **given: Any) -> str | None:
    config, manifest = resume({"resume": str(case.folder), **given})
    assert manifest is not None
    return describe_changes(replace(case.job, config=config), manifest)


def test_what_a_change_makes_of_the_learning_rate_is_said(tmp_path: Path) -> None:
    linear = {"lr_schedule": "linear", "lr": 1.0, "min_lr": 0.0, "warmup_steps": 0}
    case = SavedRun(tmp_path / "run", max_steps=20, **linear)  # of which 10 are done
    assert described(case, max_steps=40) == (
        "changed: --max-steps 40 (was 20): the learning rate jumps from 5.00e-01 to 7.50e-01"
    )
    assert described(case, max_steps=16, lr=2.0, weight_decay=0.5) == (
        "changed: --lr 2.0 (was 1.0), --weight-decay 0.5 (was 0.1), --max-steps 16 (was 20): the "
        "learning rate jumps from 5.00e-01 to 7.50e-01"
    )
    assert described(case, beta1=0.8) == "changed: --beta1 0.8 (was 0.5)"
    assert described(case, eval_every=7) is None
    assert described(case) is None
    assert described(case, max_steps=20) is None


def test_a_schedule_without_an_end_does_not_jump(tmp_path: Path) -> None:
    case = SavedRun(tmp_path / "run", max_steps=20, lr_schedule="constant")
    assert described(case, max_steps=40) == "changed: --max-steps 40 (was 20)"


def test_all_that_a_resumed_run_changes_is_recorded(tmp_path: Path) -> None:
    case = SavedRun(tmp_path / "run", max_steps=20)
    given = {"resume": str(case.folder), "lr": 0.5, "eval_every": 7, "quiet": True}
    config, manifest = resume(given)
    assert manifest is not None
    assert changes(replace(case.job, config=config), manifest) == {
        "lr": (case.config.optim.lr, 0.5),
        "eval_every": (case.config.run.eval_every, 7),
    }


def test_what_a_checkpoint_says_of_its_job_is_all_that_generate_needs(case: SavedRun) -> None:
    tokenizer, decoder = load_model(case.checkpoint(10), "cpu")
    assert tokenizer == case.corpus.tokenizer
    assert decoder.feed(np.array([[1, 2, 3]])).shape == (1, 256)
