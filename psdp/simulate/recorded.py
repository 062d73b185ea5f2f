"""What a run that was made with ``--record`` left, read back for a simulation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psdp.errors import ConfigError, ReplayError
from psdp.job import Job
from psdp.modes import MODES
from psdp.policies import make_policy
from psdp.protocol import Apply, Push, SendWeights
from psdp.records.events import Happened, NewTerm, events_file, read_record
from psdp.records.folder import CONFIG, SUMMARY, VIRTUAL
from psdp.records.replay import check_end
from psdp.simulate.course import rate
from psdp.simulate.scenario import job_of


@dataclass(frozen=True)
class Recorded:
    """What a run that was made with ``--record`` left."""

    config: dict[str, Any]
    summary: dict[str, Any]
    happened: Sequence[Happened]

    @property
    def job(self) -> Job:
        return job_of(self.config["settings"], self.config["workers"], self.config["parameters"])

    @property
    def hosts(self) -> int:
        """On how many hosts its ranks were."""
        return len({*self.config.get("hosts", ())}) or 1

    @property
    def cores(self) -> int | None:
        """How many its ranks had on each host, of several the fewest; None if it does not say."""
        known = [machine["cores"] for machine in self.config.get("machines", {}).values()]
        return max(1, int(min(known))) if known else None

    @property
    def pushes(self) -> list[Push]:
        return [each.event for each in self.happened if isinstance(each.event, Push)]

    def gradients_per_s(self) -> float:
        """Return the throughput after the warm-up, of what was accepted."""
        return rate(_updates(self.job, self.happened))


def _updates(job: Job, happened: Iterable[Happened]) -> list[tuple[float, int]]:
    """Return when a run made an update, and of how many gradients so far: its policy decides again
    on what happened, and leaves out what came too late."""
    policy = make_policy(job, 0, {})
    batches: dict[int, int] = {}
    updates, done, now_s = [], 0, 0.0
    for each in happened:
        event = each.event
        assert not isinstance(event, NewTerm), "which is refused"
        if isinstance(event, Push):
            now_s = each.time_s
            units = event.work.steps * job.units_per_gradient
            work = replace(event.work, units=units, batch=batches[event.worker])
            event = Push(event.worker, job.slot_of(event.worker), work)
        for effect in policy.handle(event):
            match effect:
                case Apply(units=units):
                    done += units // job.units_per_gradient
                    updates.append((now_s, done))
                case SendWeights(worker=worker, batch=batch):
                    batches[worker] = batch
    return updates


def read_run(folder: Path) -> Recorded:
    """Return what is left of a recorded run.

    Raises:
        ConfigError: it is none.
    """
    config, summary = (_read_json(folder, name) for name in (CONFIG, SUMMARY))
    _check_holds(folder, CONFIG, config, _OF_CONFIG)
    _check_holds(folder, SUMMARY, summary, _OF_SUMMARY)
    _check_holds(folder, f"server_cpu_s of {SUMMARY}", summary["server_cpu_s"], {"0": float})
    _check_holds(folder, f"settings of {CONFIG}", config["settings"], {"mode": str})
    if {*config.get("hosts", ())} == {VIRTUAL}:
        raise ConfigError(
            f"--calibrate {folder}: it is a virtual job, whose times were simulated, not measured; "
            "record a real one"
        )
    path = events_file(folder, 0)
    try:
        events = read_record(path)
        check_end(path, events)
    except OSError as error:
        raise ConfigError(
            f"--calibrate {folder}: {path.name}: {error.strerror}; it takes the folder of a run "
            "that was made with --record, from its start"
        ) from error
    except ReplayError as error:
        raise ConfigError(f"--calibrate {folder}: {error}") from error
    name = config["settings"]["mode"]
    mode = MODES.get(name)
    if mode is None:
        raise ConfigError(f"--calibrate {folder}: there is no mode {name!r} in this psdp")
    if not mode.served:
        raise ConfigError(
            f"--calibrate {folder}: in --mode {mode} servers see no gradients, so its record says "
            "nothing of their costs; record a run of another mode"
        )
    if mode.chooses:
        raise ConfigError(
            f"--calibrate {folder}: in --mode {mode} a run is now in one mode and now in another, "
            "at other costs; record a run of one mode"
        )
    if "task" in config:  # of another unit, which stands for a token here
        per_batch = {"block_size": 1, "batch_size": config["units_per_batch"]}
        config["settings"] = {**config["settings"], **per_batch}
    if any(isinstance(each.event, NewTerm) for each in events.happened):
        raise ConfigError(
            f"--calibrate {folder}: a server was lost, and what was under way was done again; "
            "record a run that nothing disturbs"
        )
    return Recorded(config, summary, events.happened)


_OF_CONFIG = {"settings": dict, "workers": int, "parameters": int}
_OF_SUMMARY = {
    "version": int,
    "wall_s": float,
    "apply_s": float,
    "server_cpu_s": dict,
    "pull_s": dict,
    "bytes_pulled": int,
}
"""What is read of a run's files, with its type."""


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / name).read_bytes())
    except OSError as error:
        raise ConfigError(
            f"--calibrate {folder}: {name}: {error.strerror}; name the folder of a finished run"
        ) from error
    except ValueError as error:
        raise ConfigError(f"--calibrate {folder}: {name} is not JSON: {error}") from error
    return record


def _check_holds(folder: Path, name: str, record: Any, wanted: Mapping[str, type]) -> None:
    """
    Raises:
        ConfigError: a file of a run lacks what is needed of it.
    """
    for key, kind in wanted.items():
        value = record.get(key) if isinstance(record, dict) else None
        if not isinstance(value, (int, float) if kind is float else kind):
            raise ConfigError(
                f"--calibrate {folder}: {name} has no {key}; name the folder of a run that this "
                "psdp recorded and finished"
            )
