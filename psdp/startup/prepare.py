"""Everything a rank needs before its loop starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psdp.backend import Backend, make_backend
from psdp.backend.threads import fair_share, limit_blas
from psdp.checkpoint import CheckpointStore, Manifest, Snapshot, read_shard
from psdp.config import Config
from psdp.cores import cpu_quota, own_cores
from psdp.data.batches import Batches, Validation
from psdp.data.corpus import Corpus, load_corpus
from psdp.errors import ConfigError
from psdp.job import Job, check_world
from psdp.nn.transformer import parameter_table
from psdp.records.folder import RunFolder
from psdp.servers.shard import Shard
from psdp.startup.agree import same_corpus, same_settings, together
from psdp.startup.device import check_room, make_replica, needs_of
from psdp.startup.folder import config_record, open_folder
from psdp.startup.on_devices import meet_on_devices
from psdp.startup.resume import check_replayable, check_resumable, settle
from psdp.startup.share import Links, Meeting, make_memory, meet
from psdp.transport.devices import Device
from psdp.transport.launchers import check_not_alone
from psdp.transport.mpi import World
from psdp.transport.shared import Memory, Neighbours
from psdp.workers.replica import Replica


@dataclass(frozen=True)
class Reads:
    """What a worker reads: its batches, and the validation split if there is one."""

    batches: Batches
    validation: Validation | None


@dataclass(frozen=True)
class Ready:
    """What all ranks agreed on, and this rank's own part.

    Attributes:
        reads: of a worker.
        replica: of a worker.
        shard: of a server, fresh.
        folder: the run folder; rank 0 writes it, servers write their shards below it.
        manifest: of the checkpoint that this run resumes.
        snapshot: of a server of a resumed run, and of its workers where each has the optimizer.
        links: how vectors go between servers and workers.
        neighbours: what this rank shares with others on its host.
        vectors_on: the GPU that holds this rank's vectors, if one does.
        kernels: that each rank computes with.
    """

    job: Job
    corpus: Corpus
    folder: RunFolder
    reads: Reads | None
    replica: Replica | None
    shard: Shard | None
    manifest: Manifest | None
    snapshot: Snapshot | None
    links: Links
    neighbours: Neighbours
    vectors_on: Device | None
    kernels: list[str]


def prepare(world: World, given: Mapping[str, Any], refused: ConfigError | None) -> Ready:
    """Agree with all other ranks on the job; return what this rank needs for its loop.

    Args:
        given: settings of this rank's command line.
        refused: why the command line could not be read, to be told once.

    Raises:
        SystemExit: something is wrong on some rank; rank 0 has said what.
    """
    rank = world.rank

    def settings() -> tuple[tuple[Config, Manifest | None], dict[str, Any]]:
        if refused is not None:
            raise refused
        check_not_alone(world.size, world.library, os.environ)
        config, manifest = settle(given)
        check_world(config, world.size)
        cores = {"cores": own_cores(), "cpu_quota": cpu_quota()}
        facts = {"settings": config.flat(), "host": world.host, **cores}
        return (config, manifest), facts

    (config, manifest), hosts = together(world, settings)
    places = [place_on_node(hosts, other) for other in range(world.size)]
    local_rank, threads = places[rank]
    limit_blas(threads)

    def reading() -> tuple[tuple[Corpus, Reads | None], dict[str, Any]]:
        same_settings([host["settings"] for host in hosts])
        corpus = load_corpus(config.data)
        reads = None if rank < config.run.servers else cut_out(corpus, config, rank, world.size)
        return (corpus, reads), {"sha256": corpus.sha256}

    (corpus, reads), corpora = together(world, reading)
    job = Job(config, world.size, parameter_table(config.model, corpus.vocab_size))

    def resuming() -> tuple[Snapshot | None, dict[str, Any]]:
        same_corpus([fact["sha256"] for fact in corpora])
        if config.run.replay is not None:
            check_replayable(job, corpus, Path(config.run.replay))
        if manifest is None:
            return None, {}
        check_resumable(job, corpus, manifest)
        if job.reduces:
            return Snapshot.from_tensors(read_shard(manifest, 0)), {}
        if rank not in job.servers:
            return None, {}
        return Snapshot.from_tensors(read_shard(manifest, rank)), {}

    snapshot, _ = together(world, resuming)

    def opening_device() -> tuple[Backend | None, dict[str, Any]]:
        run = config.run
        if rank in job.servers:
            if run.server_device == "cpu":
                return None, {}
            backend = make_backend(
                "gpu", run.dtype, local_rank, kernels="compiled", flag="--server-device"
            )
        else:
            how = {"kernels": run.kernels, "precision": run.precision}
            backend = make_backend(run.device, run.dtype, local_rank, threads=threads, **how)
        return backend, {"gpu": needs_of(backend, job, rank, corpus.vocab_size)}

    device, devices = together(world, opening_device)
    names, needs = [host["host"] for host in hosts], [fact.get("gpu") for fact in devices]
    local_ranks = [local_rank for local_rank, _ in places]
    on_gpus, why_not = meet_on_devices(world, job, device, needs, names, local_ranks)

    def allocating() -> tuple[tuple[Shard | Replica, Memory | None], dict[str, Any]]:
        memory, card = None, None
        if on_gpus is None:
            check_room(needs, names, rank)
            memory = make_memory(job, rank)
        zeros = on_gpus.zeros if on_gpus else memory.zeros if memory else np.zeros
        how: dict[str, Any] = {"on_device": on_gpus is not None}
        own: Shard | Replica
        if rank in job.servers:
            own = Shard.initial(job, rank, zeros, threads=threads, device=device, **how)
            offered = own.weights.values
        else:
            assert device is not None
            own = make_replica(job, corpus.vocab_size, device, zeros, **how)
            offered = own.gradient
        if memory is not None:
            card = memory.card(offered)
        return (own, memory), {"card": card, "kernels": own.backend.kernels}

    (own, memory), allocated = together(world, allocating)
    kernels = [fact["kernels"] for fact in allocated]
    meeting: Meeting
    if on_gpus is not None:
        meeting = on_gpus
    else:
        meeting = meet(world, job, names, memory, [fact["card"] for fact in allocated], why_not)
    if isinstance(own, Shard) and not job.reduces:
        for slot, worker in enumerate(job.workers):
            if worker in meeting.windows:
                window = meeting.windows[worker]
                own.adopt(slot, window.vector(job.shards[rank], job.wire_dtype))

    def opening() -> tuple[RunFolder | None, dict[str, Any]]:
        if rank != 0:
            return None, {}
        folder = open_folder(config, manifest)
        try:
            CheckpointStore(folder.path, config.run.keep_checkpoints).discard_leftovers()
            facts = {"mpi": world.library, "transport": meeting.links.name, "kernels": kernels}
            folder.write_config(config_record(job, corpus, folder, hosts, places, facts))
        except BaseException:
            folder.withdraw()
            raise
        return folder, {"folder": str(folder.path)}

    opened, folders = together(world, opening)
    folder = opened or RunFolder(Path(folders[0]["folder"]))
    replica = own if isinstance(own, Replica) else None
    shard = own if isinstance(own, Shard) else None
    return Ready(
        job,
        corpus,
        folder,
        reads,
        replica,
        shard,
        manifest,
        snapshot,
        meeting.links,
        Neighbours(meeting.memory, meeting.windows),
        None if on_gpus is None else on_gpus.device,
        kernels,
    )


def place_on_node(hosts: Sequence[Mapping[str, Any]], rank: int) -> tuple[int, int]:
    """Return a rank's number among those of its host, and its threads: ``--threads``, or its
    fair share of the host's cores.

    ``hosts`` holds ``host``, ``cores``, ``cpu_quota`` and ``settings`` of every rank.
    """
    own = hosts[rank]
    ranks = [other for other, fact in enumerate(hosts) if fact["host"] == own["host"]]
    cores = [hosts[other]["cores"] for other in ranks]
    threads = fair_share(own["cores"], cores, own["cpu_quota"])
    return ranks.index(rank), own["settings"]["threads"] or threads


def cut_out(corpus: Corpus, config: Config, rank: int, world_size: int) -> Reads:
    """Return what a worker reads of the corpus.

    Raises:
        DataError: a split is too short for the block size or the number of workers.
    """
    model, run, servers = config.model, config.run, config.run.servers
    # Where rank 0 deals batches out, every worker may get any.
    dealt = run.balance == "dynamic"
    batches = Batches(
        corpus.train,
        block_size=model.block_size,
        batch_size=run.batch_size,
        grad_accum=run.grad_accum,
        worker=0 if dealt else rank - servers,
        workers=1 if dealt else world_size - servers,
        partition=config.data.partition,
        seed=run.seed,
    )
    validation = None
    if config.data.val_fraction:
        validation = Validation(corpus.val, model.block_size, run.batch_size, run.eval_batches)
    return Reads(batches, validation)
