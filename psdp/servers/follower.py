"""The loop of a server that is not rank 0: it does to its shard what rank 0 does, in that order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from psdp.checkpoint import CheckpointStore, Snapshot
from psdp.job import Job
from psdp.servers.server import Saved, Server
from psdp.servers.shard import Shard
from psdp.transport import Endpoint
from psdp.transport import messages as m

Instruction = m.Update | m.Discard | m.Answer | m.TakeSnapshot | m.ReleaseSnapshot | m.Finish


class Follower(Server):
    """Takes rank 0's instructions one after the other; an update waits for its gradients.

    Args:
        signalled: returns the name of a signal that asked this rank to end, or None.
    """

    def __init__(
        self,
        job: Job,
        endpoint: Endpoint,
        shard: Shard,
        store: CheckpointStore,
        snapshot: Snapshot | None = None,
        *,
        signalled: Callable[[], str | None] = lambda: None,
    ) -> None:
        super().__init__(job, endpoint, shard, store, snapshot)
        self._signalled = signalled
        self._told = False
        self._instructions: deque[Instruction] = deque()

    def turn(self) -> None:
        super().turn()
        if self._signalled() is not None and not self._told:
            # Rank 0 ends the run, and wants this shard saved first.
            self.endpoint.send(0, m.Goodbye(0.0, 0.0, 0.0, 0.0, 0, 0, m.SIGNAL, 0))
            self._told = True

    def on_message(self, peer: int, message: m.Message) -> None:
        if isinstance(message, Instruction) and peer == 0:
            self._instructions.append(message)
            self.proceed()
        else:
            super().on_message(peer, message)

    def on_gradient(self, peer: int, message: m.Gradient) -> None:
        self.gradients[self.slot_of(peer)] = message
        self.proceed()

    def on_written(self, result: Saved) -> None:
        file = result.file
        saved = m.ShardSaved(
            result.version, file["name"], file["bytes"], file["sha256"], self.cpu_s
        )
        self.endpoint.send(0, saved)
        self.snapshots.written(result.version)

    def proceed(self) -> None:
        while self._instructions and self.updating is None:
            instruction = self._instructions[0]
            if not self._landed(instruction):
                return
            self._instructions.popleft()
            self._follow(instruction)

    def _landed(self, instruction: Instruction) -> bool:
        """Say whether the gradients that an instruction is about are here."""
        match instruction:
            case m.Update(slots=packed):
                return all(slot in self.gradients for slot in m.unpack_slots(packed))
            case m.Discard(slot):
                return slot in self.gradients
            case _:
                return True

    def _follow(self, instruction: Instruction) -> None:
        match instruction:
            case m.Update() as update:
                self.begin_update(update)
            case m.Discard(slot):
                del self.gradients[slot]
            case m.Answer(rank):
                order = m.Weights(self.version, 0, m.TRAIN, m.CURRENT, 0, 0)
                self.send_weights(rank, order)
            case m.TakeSnapshot():
                self.keep(hold=True, save=False)
            case m.ReleaseSnapshot(version, save):
                self.snapshots.release(version, save=save)
            case m.Finish():
                self.finished = True
