"""Rules between settings: what contradicts what, and defaults that depend on other settings.

A rule is given the topics that it is about. What depends on the mode is read off its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from psdp.architectures import ARCHITECTURES
from psdp.config.data import DataConfig
from psdp.config.duration import seconds_in
from psdp.config.help import either
from psdp.config.model import OWN, ModelConfig, head_size, kv_heads, rotary_dims
from psdp.config.optim import OptimConfig
from psdp.config.run import RunConfig
from psdp.config.url import check_url
from psdp.errors import ConfigError
from psdp.fields import flag_of
from psdp.modes import MODES, ONLY_WITH, Merge
from psdp.optim import OPTIMIZERS
from psdp.wire import CODECS

_Topic = TypeVar("_Topic", OptimConfig, RunConfig)


def check_heads(model: ModelConfig) -> None:
    """
    Raises:
        ConfigError: the channels cannot be shared out among the heads, where there are some.
    """
    if not ARCHITECTURES[model.architecture].attends:
        return
    if model.n_embd % model.n_head:
        raise ConfigError(f"--n-embd {model.n_embd} is not divisible by --n-head {model.n_head}")
    if model.n_head % kv_heads(model):
        raise ConfigError(
            f"--n-head {model.n_head} is not divisible by --n-kv-head {model.n_kv_head}: each head "
            "of keys and values is for as many heads of queries"
        )


def check_rotary(model: ModelConfig) -> None:
    """
    Raises:
        ConfigError: channels cannot be turned in pairs, or are to be turned where none are.
    """
    if not ARCHITECTURES[model.architecture].attends:
        return
    size, turned = head_size(model), rotary_dims(model)
    if turned is None:
        for f in fields(model):
            value = getattr(model, f.name)
            if f.name in ("rope_theta", "rotary_dims") and value != f.default:
                raise ConfigError(
                    f"{flag_of(f.name)} {value} has a meaning with --position rotary only, got "
                    f"--position {model.position}; drop one of the two"
                )
    elif turned > size:
        raise ConfigError(
            f"--rotary-dims {turned} is more than a head has: --n-embd {model.n_embd} / --n-head "
            f"{model.n_head} = {size}"
        )
    elif turned % 2:
        raise ConfigError(
            "--position rotary turns pairs of channels and needs an even head size, or an even "
            f"--rotary-dims, got --n-embd {model.n_embd} / --n-head {model.n_head} = {size} and "
            f"--rotary-dims {turned}"
        )


def check_own(model: ModelConfig) -> None:
    """
    Raises:
        ConfigError: a setting is given that is another architecture's own.
    """
    for name, (owner, f) in OWN.items():
        value = getattr(model, name)
        if value != f.default and model.architecture != owner:
            raise ConfigError(
                f"{flag_of(name)} {value} has a meaning with --architecture {owner} only, got "
                f"--architecture {model.architecture}; drop one of the two"
            )


def check_corpus(data: DataConfig) -> None:
    """
    Raises:
        ConfigError: the corpus is two things, or the validation is.
    """
    if "stdlib" in data.corpus and len(data.corpus) > 1:
        raise ConfigError("--corpus takes 'stdlib' alone or paths, not both")
    if data.val_corpus is not None and data.val_fraction != DataConfig.val_fraction:
        raise ConfigError(
            f"--val-fraction {data.val_fraction} is of --corpus, but --val-corpus has a validation "
            "of its own; drop one of the two"
        )


def check_meaning(optim: OptimConfig, run: RunConfig) -> None:
    """
    Raises:
        ConfigError: a setting is given that has no meaning in this mode.
    """
    for topic in (run, optim):
        for f in fields(topic):
            value, modes = getattr(topic, f.name), ONLY_WITH.get(f.name, (run.mode,))
            if value != f.default and run.mode not in modes:
                raise ConfigError(
                    f"{flag_of(f.name)} {value} has a meaning with --mode {either(modes)} only, "
                    f"got --mode {run.mode}; drop one of the two"
                )


def check_server_device(run: RunConfig) -> None:
    """
    Raises:
        ConfigError: servers are to update on GPUs, and have not one optimizer to do so.
    """
    if run.server_device == "gpu" and len(MODES[run.mode].updates) != 1:
        raise ConfigError(
            f"--server-device gpu does not go with --mode {run.mode}, where servers have two "
            "optimizers, or none; drop one of the two"
        )


def check_standby(run: RunConfig) -> None:
    """
    Raises:
        ConfigError: --standby is given with what it cannot go with.
    """
    if not run.standby:
        return
    if run.replay is not None:
        other, reason = "--replay", "goes by a record, also where servers were lost in that"
    elif run.server_device == "gpu":
        other, reason = "--server-device gpu", "has vectors in memory that is a GPU's"
    else:
        return
    raise ConfigError(
        f"--standby does not go with {other}: such a run {reason}; drop one of the two"
    )


def check_overlap(optim: OptimConfig, run: RunConfig) -> None:
    """
    Raises:
        ConfigError: --overlap is given with what it cannot go with.
    """
    if not run.overlap:
        return
    if run.backup_workers:
        other = f"--backup-workers {run.backup_workers}"
        reason = "every gradient would come a version late, and be dropped"
    elif run.balance == "dynamic":
        other = "--balance dynamic"
        reason = "a gradient is begun before the server has dealt its batch"
    elif optim.lag_compensation == "dc-asgd":
        other = "--lag-compensation dc-asgd"
        reason = "the server has no copy of the weights that it was computed on"
    else:
        return
    raise ConfigError(f"--overlap does not go with {other}: {reason}; drop one of the two")


def check_balance(data: DataConfig, run: RunConfig) -> None:
    """
    Raises:
        ConfigError: batches are to be dealt out of more decks than one.
    """
    if run.balance == "dynamic" and data.partition != "random":
        raise ConfigError(
            f"--balance dynamic deals all windows out to all workers and needs --partition "
            f"random, got --partition {data.partition}; drop one of the two"
        )


def check_raw_weights(run: RunConfig) -> None:
    """
    Raises:
        ConfigError: weights are to be taken as they are, and there are none to take.
    """
    if run.raw_weights and run.init_from is None:
        raise ConfigError("--raw-weights says which weights --init-from takes; give both")


def check_max_time(run: RunConfig) -> None:
    """
    Raises:
        ConfigError: the time limit cannot be read.
    """
    if run.max_time is not None:
        seconds_in(run.max_time, "--max-time")


def check_checkpoint_to(run: RunConfig) -> None:
    """
    Raises:
        ConfigError: copies are to go where there can be none.
    """
    if run.checkpoint_to is not None:
        check_url(run.checkpoint_to, "--checkpoint-to")


def check_spares(run: RunConfig) -> None:
    """
    Raises:
        ConfigError: ranks are to wait for a loss that ends the run.
    """
    if run.spares and not MODES[run.mode].survives_loss:
        raise ConfigError(
            f"--spares {run.spares} has no use with --mode {run.mode}, which ends with the first "
            "rank that is lost; drop one of the two"
        )


def check_precision(run: RunConfig) -> None:
    """
    Raises:
        ConfigError: nothing computes products as precisely as that.
    """
    if run.precision == "float32":
        return
    if run.dtype != "float32" or run.kernels == "numpy":
        raise ConfigError(
            f"--precision {run.precision} needs float32 weights and no --kernels numpy, got "
            f"--dtype {run.dtype} --kernels {run.kernels}"
        )
    if run.precision == "tf32" and run.device == "cpu":
        raise ConfigError(
            "--precision tf32 is for --device gpu, got --device cpu; drop one of the two"
        )


def check_early_stop(data: DataConfig, run: RunConfig) -> None:
    """
    Raises:
        ConfigError: a run is to stop by evaluations that it does not make.
    """
    if run.early_stop_patience and not (run.eval_every and data.val_fraction):
        raise ConfigError(
            f"--early-stop-patience {run.early_stop_patience} needs evaluations on the way: "
            f"got --eval-every {run.eval_every} and --val-fraction {data.val_fraction}"
        )


def check_samples(data: DataConfig, run: RunConfig) -> None:
    """
    Raises:
        ConfigError: texts are to be made where no weights are evaluated.
    """
    every, evaluations = run.sample_every, run.eval_every * (data.val_fraction > 0)
    if every and (not evaluations or every % evaluations):
        raise ConfigError(
            f"--sample-every {every} needs evaluations at these steps: got --eval-every "
            f"{run.eval_every} and --val-fraction {data.val_fraction}"
        )


def fill_for_mode(optim: OptimConfig, run: RunConfig) -> tuple[OptimConfig, RunConfig]:
    """Return the settings with what was left out as is usual in this mode."""
    mode = MODES[run.mode]
    usual = dict(mode.settings)
    if (run.merge or usual.get("merge")) == Merge.EACH:
        usual |= mode.merged_each
    return _filled(optim, usual), _filled(run, usual)


def _filled(topic: _Topic, usual: Mapping[str, Any]) -> _Topic:
    left_out = [f.name for f in fields(topic) if getattr(topic, f.name) is None]
    return replace(topic, **{name: usual[name] for name in left_out if name in usual})


def fill_outer(optim: OptimConfig, run: RunConfig) -> OptimConfig:
    """Return the settings with those of the outer optimizer, where there is one.

    Raises:
        ConfigError: a setting of momentum is given for one without.
    """
    kind, momentum, lr = optim.outer_optimizer, optim.outer_momentum, optim.outer_lr
    if kind is None:
        return optim
    if kind == "average" and momentum is not None:
        raise ConfigError(
            f"--outer-momentum {momentum} has a meaning with --outer-optimizer momentum or "
            "nesterov only, got average; drop one of the two"
        )
    if kind != "average" and momentum is None:
        momentum = {"momentum": 0.5, "nesterov": 0.65}[kind]
    if lr is None and (kind != "average" or run.merge != Merge.EACH):
        lr = 1.0  # else it depends on the number of workers
    return replace(optim, outer_lr=lr, outer_momentum=momentum)


def fill_for_rule(optim: OptimConfig) -> OptimConfig:
    """Return the settings with what was left out as is usual for this update rule."""
    return _filled(optim, OPTIMIZERS[optim.optimizer].defaults)


def fill_schedule(optim: OptimConfig, run: RunConfig) -> OptimConfig:
    """Return the settings with the learning rate's least value and its warm-up.

    Raises:
        ConfigError: the least value is above the highest.
    """
    highest, least = optim.lr, optim.min_lr
    assert highest is not None, "the rule has a default"
    if least is None:
        optim = replace(optim, min_lr=highest / 10)
    elif least > highest:
        raise ConfigError(f"--min-lr {least} is above --lr {highest}")
    if optim.warmup_steps is None:
        optim = replace(optim, warmup_steps=min(100, run.max_steps // 20))
    return optim


def fill_wire(run: RunConfig) -> RunConfig:
    """Return the settings with the type of what is pushed, where something is and there is a
    choice.

    Raises:
        ConfigError: a choice is made where there is none.
    """
    if run.dtype == "float32":
        wire = run.wire_dtype or next(iter(CODECS))
        return replace(run, wire_dtype=wire) if MODES[run.mode].served else run
    if run.wire_dtype is not None:
        raise ConfigError(
            f"--wire-dtype {run.wire_dtype} needs float32 gradients, got --dtype {run.dtype}; drop "
            "one of the two"
        )
    return run
