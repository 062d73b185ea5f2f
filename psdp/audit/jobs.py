"""The job of a recorded start, made again of what its first line says, without its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psdp.audit.findings import Contradiction
from psdp.config import Config
from psdp.errors import ConfigError
from psdp.job import Job
from psdp.language import Language
from psdp.records.events import Seal

BYTE_VOCABULARY = 256


@dataclass(frozen=True)
class Header:
    """The first line of a file of events.

    Attributes:
        settings: of the job, as they were agreed on.
        identity: hashes of what a checkpoint says of the job, by name.
        checkpoint: that it went on from, its digest, and how far the record had come there; None
            at the first start.
        best: the best validation loss before; None where there is none.
    """

    job: Job
    settings: Mapping[str, Any]
    identity: Mapping[str, str]
    version: int
    units: int
    clocks: Mapping[int, int]
    batches: tuple[tuple[int, int], ...]
    checkpoint: str | None
    digest: str | None
    seal: Seal | None
    best: float | None


def job_of(settings: Mapping[str, Any], told: Mapping[str, Any]) -> Job:
    """Return the job of these settings.

    Args:
        told: its workers, servers, ranks that work, unit and units of a batch.

    Raises:
        ConfigError, KeyError, TypeError, ValueError: there is no such job.
    """
    workers, servers, ranks = int(told["workers"]), int(told["servers"]), int(told["ranks"])
    config = Config.from_flat(dict(settings) | {"virtual_workers": workers}).resolved()
    task = Language(config, config.data.vocab_size or BYTE_VOCABULARY)
    # Whatever it was, no more is asked of it.
    task.unit, task.units_per_batch = str(told["unit"]), int(told["units_per_batch"])
    return Job(config, ranks + servers * (2 if config.run.standby else 1), task)


def header_of(content: list[Any] | None) -> Header:
    """Return what a first line says.

    Raises:
        Contradiction: it says nothing that a run would.
    """
    match content:
        case ["start", dict() as told]:
            pass
        case _:
            raise Contradiction("the first line does not say of which job the events are")
    try:
        before = told["from"] or {}
        return Header(
            job=job_of(told["settings"], told),
            settings=dict(told["settings"]),
            identity=dict(told["identity"]),
            version=int(told["version"]),
            units=int(told["units"]),
            clocks={int(worker): int(clock) for worker, clock in told["clocks"].items()},
            batches=tuple((int(start), int(stop)) for start, stop in told["batches"]),
            checkpoint=before.get("checkpoint"),
            digest=before.get("digest"),
            seal=Seal.from_record(before.get("events")),
            best=before.get("best"),
        )
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Contradiction(f"the first line is of no job that there can be: {error}") from error
