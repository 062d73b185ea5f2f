"""Completing checkpoints on rank 0: collect every server's file, commit, mark the best."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.checkpoint import CheckpointId, CheckpointStore, Snapshot, latest_of
from psdp.errors import NumericsError
from psdp.job import Job
from psdp.records.metrics import Best
from psdp.records.reasons import StoppedBy
from psdp.records.record import Record
from psdp.servers.copies import Copies, Marked
from psdp.servers.ending import Stopped
from psdp.servers.gathering import Gathering
from psdp.servers.noting import CURE
from psdp.servers.others import Others
from psdp.servers.saving import Refused, Saved
from psdp.servers.serving import TICK_S, Serving
from psdp.servers.snapshots import checkpoint_of
from psdp.transport import Arrival, Lost
from psdp.transport import messages as m


@dataclass(frozen=True)
class Committed:
    """The checkpoint of a version is complete on disk; ``without`` what these workers had for
    themselves, with the reasons."""

    version: int
    path: Path
    without: Mapping[int, str]


@dataclass
class _Begun:
    """A version that is being saved: in which checkpoint, what it says of it, and whether it is
    being completed."""

    at: CheckpointId
    state: dict[str, Any]
    completing: bool = False


class Keeping:
    """Checkpoints under way, by version. The disk is touched by the writer's thread alone.

    Args:
        serving: of rank 0, whose writer this uses. Versions that are being evaluated are not
            pruned, since one of them may turn out to be the best.
        identity: what a checkpoint says of the job beside its progress (settings, tokenizer, ...).
        best: the best evaluation so far.
        copies: of evaluated versions, which are saved with this.
        say: tells whoever watches the run.
        record: of the events, whose hash goes into every checkpoint.
    """

    def __init__(
        self,
        job: Job,
        serving: Serving,
        store: CheckpointStore,
        identity: Mapping[str, Any],
        best: Best,
        copies: Copies,
        say: Callable[[str], object] = lambda _: None,
        record: Record | None = None,
    ) -> None:
        self._copies = copies
        self._job = job
        self._serving = serving
        self._store = store
        self._identity = dict(identity)
        self._best = best
        self._say = say
        self._record = record
        self._workers = Gathering(job, serving.endpoint, serving.receiving.hosting)
        self._others = Others(job, serving.endpoint)
        self._said: Mapping[int, str] = {}
        self._begun: dict[int, _Begun] = {}
        self._files: defaultdict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
        """By their names."""
        self._refused: tuple[int, str] | None = None
        """A version that is not finite, nor are those after it, and what of it is not."""
        serving.giving.before_writing = self.begin

    def idle(self) -> bool:
        """Say whether nothing is being written, or waits to be."""
        return not self._begun and not self._serving.giving.writer.busy

    def begin(self, snapshot: Snapshot) -> None:
        """Expect every server's file of this version, and what workers have for themselves."""
        version = snapshot.version
        if version in self._begun:
            return  # it is to be saved, when the run ends with it
        state = self._identity | {
            "version": version,
            self._job.units_name: snapshot.units,
            "clocks": {str(worker): clock for worker, clock in snapshot.clocks.items()},
            "best": self._best.record(),
        }
        if self._record is not None:
            state["events"] = self._record.seal_of(version).record()
        at = checkpoint_of(self._job, snapshot)
        self._begun[version] = _Begun(at, state)
        self._workers.ask(at, snapshot.clocks)

    def written(self, result: Saved | Refused | Committed | Marked) -> None:
        """Take what the writer has finished.

        Raises:
            Stopped: this shard is not finite.
        """
        match result:
            case Refused(version, why):
                self._serving.giving.snapshots.written(version)
                self.refuse(self._serving.endpoint.rank, version, why)
            case Saved(version, file):
                self._collect(version, file)
                self._serving.giving.snapshots.written(version)
            case Committed(version, path, without):
                del self._begun[version], self._files[version]
                self._tell_of_missing(path, without)
                self._copies.completed(version, path)
            case Marked(version):
                self._copies.let_go(version)

    def saved(self, message: m.ShardSaved) -> None:
        """Take another server's word that its file is on disk."""
        name, size, sha256 = message.name, message.file_bytes, message.sha256
        self._collect(message.version, {"name": name, "bytes": size, "sha256": sha256})

    def refuse(self, server: int, version: int, why: str) -> None:
        """Take a server's word that its shard is not finite, and is not saved.

        Raises:
            Stopped: always. What is NaN or Inf stays so.
        """
        what = f"{why} in version {version} of server rank {server}"
        self._refused = min(self._refused or (version, what), (version, what))
        error = NumericsError(f"the weights cannot be trained any further: {what}. {CURE}")
        raise Stopped(StoppedBy.NON_FINITE_STATE, error)

    def _collect(self, version: int, file: dict[str, Any]) -> None:
        """Take one server's file."""
        files = self._files[version]
        if file["name"] in files:
            return  # a server that had written it was asked to save what there is
        files[file["name"]] = file
        self._complete_what_is_there()

    def answered(self, rank: int, message: m.WorkerSaved | m.WorkerUnsaved) -> None:
        """Take a rank's word that what a worker has for itself is on disk, or will not be."""
        self._workers.answered(rank, message)
        self._complete_what_is_there()

    def gone(self, rank: int) -> None:
        """A rank writes nothing more."""
        self._workers.gone(rank)
        self._complete_what_is_there()

    def look(self) -> None:
        """Wait no more for workers that take too long."""
        self._workers.give_up(late_only=True)
        self._complete_what_is_there()

    def _complete_what_is_there(self) -> None:
        """Commit the checkpoints of which all files are on disk."""
        for version, begun in self._begun.items():
            files = self._files[version]
            if begun.completing or len(files) < len(self._job.servers):
                continue
            if self._workers.complete(version):
                begun.completing = True
                self._complete(version, begun, list(files.values()))

    def _complete(self, version: int, begun: _Begun, files: list[dict[str, Any]]) -> None:
        at, state, spare, store = begun.at, begun.state, self._copies.spare(), self._store
        entries, missing = self._workers.take(version)

        def commit() -> Committed:
            unseen = {worker: store.why_unseen(at, entry) for worker, entry in entries.items()}
            without = missing | {worker: why for worker, why in unseen.items() if why is not None}
            workers = {**entries, **dict.fromkeys(without)}
            return Committed(version, store.commit(at, files, state, spare, workers), without)

        self._serving.giving.writer.submit(commit)

    def _tell_of_missing(self, path: Path, without: Mapping[int, str]) -> None:
        """Say once what checkpoints from this one on do without."""
        if without and without != self._said:
            some = "; ".join(
                f"worker {worker}: {without[worker]}" for worker in sorted(without)[:4]
            )
            more = f"; and {len(without) - 4} more" if len(without) > 4 else ""
            self._say(f"{path} is without what some workers have for themselves ({some}{more})")
        self._said = without

    def settle(self, deadline: float) -> None:
        """Make the update that was begun, after an error, until a deadline of the monotonic clock.

        Raises:
            RuntimeError: the weights were left in the middle of it.
        """
        self._serving.recover()
        # What the other servers have begun, this one has; it may wait for their part of a norm.
        with suppress(Stopped):  # which is told when it comes to saving
            while self._waits_for_norms and time.monotonic() < deadline:
                self._move_on()

    @property
    def _waits_for_norms(self) -> bool:
        return self._serving.order.waits_for_norms and not self._others.lost

    def save_now(self, deadline: float) -> Path | None:
        """Save the present version on all servers; return where, None if it takes too long.

        Args:
            deadline: of the monotonic clock.

        Raises:
            NumericsError: it is not finite; the text says what is kept.
            PeerLost: no rank is left that holds some shard.
        """
        version = self._serving.progress.version
        if version not in self._copies.paths:
            self._save(version, deadline)
        while self._copies.is_marking and time.monotonic() < deadline:
            self._move_on()
        return self._copies.paths.get(version)

    def _save(self, version: int, deadline: float) -> None:
        """Have a version saved, if there is time.

        Raises:
            NumericsError: it is not finite.
            PeerLost: no rank is left that holds some shard.
        """
        if self._refused is None:
            self._others.save(version, self._files[version])
            self._serving.giving.save_last()
        begin_s = time.monotonic()
        patience_s = (deadline - begin_s) / 4
        while self._awaits(version) and (now_s := time.monotonic()) < deadline:
            if self._refused is None:
                self._others.save(version, self._files[version])
            if now_s > begin_s + patience_s:
                self._workers.give_up()
                self._complete_what_is_there()
            with suppress(Stopped):
                self._move_on()
        if self._refused is not None:
            latest = latest_of(self._store.run)
            kept = "no checkpoint was saved before" if latest is None else f"{latest} is kept"
            raise NumericsError(f"{self._refused[1]}; {kept}")

    def _awaits(self, version: int) -> bool:
        """Say whether there is something to wait for, to have this version saved; if it is not
        finite, the last one that is."""
        if self._refused is None:
            return version not in self._copies.paths
        return any(begun < self._refused[0] for begun in self._begun)

    def _move_on(self) -> None:
        """Move on only what servers owe one another."""
        event = None
        try:
            event = self._serving.endpoint.receive(TICK_S / 10)
        except Exception:  # a message that is none, say: the disk does not need it
            time.sleep(TICK_S / 10)
        match event:
            case Arrival(_, m.ShardSaved() as message):
                self.saved(message)
            case Arrival(peer, m.WorkerSaved() | m.WorkerUnsaved() as message):
                self.answered(peer, message)
            case Lost(peer):
                self.gone(peer)
            case Arrival(peer, m.ShardRefused(version, why)):
                self.refuse(peer, version, why)
            case Arrival(peer, m.PartialNorm() as message):
                self._serving.take(peer, message)
        self._serving.see_written()
