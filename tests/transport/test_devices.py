"""Vectors in the memory of two GPUs, which are emulated here: what is seen, and when."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated.device import EmulatedDevice

from psdp.modes import Pushed
from psdp.params import Array
from psdp.protocol import Work
from psdp.startup.facts import to_bytes
from psdp.transport import Arrival
from psdp.transport import messages as m
from psdp.transport.devices import DeviceCard, SharedDeviceMemory, open_device_memory
from psdp.transport.in_memory import InMemoryNetwork
from psdp.transport.shared import Neighbours

SERVER, WORKER = 0, 1


def weights(version: int) -> m.Answer:
    return m.Answer(version, (m.Train(1, 0, 0, 1, 0, Pushed.GRADIENT),))


GRADIENT = m.Gradient(1, Work(0, 0, 8), m.Totals(0.0, 0.0, 0.0, 0.0, 0, 0))


class Gpu:
    """A GPU that does nothing before it is waited for, and its memory for two vectors (10,)."""

    def __init__(self, folder: Path) -> None:
        self.device = EmulatedDevice(folder, apart=True)
        self.memory = SharedDeviceMemory(2, 10, "float64", self.device)

    @property
    def card(self) -> DeviceCard:
        return self.memory.card()

    def put(self, vector: Array, values: Any) -> None:
        self.device.upload(np.array(values, vector.dtype), vector)

    def read(self, vector: Array) -> list[Any]:
        host = np.empty(vector.shape, vector.dtype)
        self.device.download(vector, host)
        return list(host.tolist())


def test_what_one_writes_the_other_reads_once_it_is_done(tmp_path: Path) -> None:
    mine, other = Gpu(tmp_path), Gpu(tmp_path)
    vector = mine.memory.zeros(10, "float64")
    assert mine.read(vector) == [0] * 10
    seen = open_device_memory(mine.card, other.device).vector(range(3, 7), "float64")
    mine.put(vector, range(10))
    assert other.read(seen) == [0] * 4, "a GPU that nobody has waited for"
    mine.device.synchronize()
    assert other.read(seen) == [3, 4, 5, 6]
    other.put(seen, [9] * 4)
    other.device.synchronize()
    assert mine.read(vector) == [0, 1, 2, 9, 9, 9, 9, 7, 8, 9]


def test_another_process_opens_it_by_its_card_and_rings(tmp_path: Path) -> None:
    mine = Gpu(tmp_path)
    vector = mine.memory.zeros(10, "float64")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from emulated.device import EmulatedDevice\n"
        "from psdp.startup.facts import from_bytes\n"
        "from psdp.transport.devices import DeviceCard, open_device_memory\n"
        "device = EmulatedDevice(Path('.'), apart=True)\n"
        "card = from_bytes(DeviceCard, sys.argv[1].encode())\n"
        "window = open_device_memory(card, device)\n"
        "device.upload(np.full(2, 7.0), window.vector(range(2, 4), 'float64'))\n"
        "device.synchronize()\n"
        "window.ring()\n"
    )
    path = f"import sys; sys.path.append({str(Path(__file__).parents[1])!r})\n"
    subprocess.run([sys.executable, "-c", path + code, to_bytes(mine.card)], check=True)
    assert mine.read(vector) == [0, 0, 7, 7, 0, 0, 0, 0, 0, 0]
    assert mine.memory.listen(0)


def test_what_is_not_the_peers_is_not_taken(tmp_path: Path) -> None:
    mine, other = Gpu(tmp_path), Gpu(tmp_path)
    with pytest.raises(OSError, match="what is there is not its own"):
        open_device_memory(replace(mine.card, name=other.card.name), other.device)
    with pytest.raises(OSError, match=r"fd/\d+ is pipe:\[\d+\], not pipe:\[1\]"):
        open_device_memory(
            replace(mine.card, bell=replace(mine.card.bell, pipe="pipe:[1]")), other.device
        )
    with pytest.raises(OSError, match="cannot open what it exported"):
        open_device_memory(mine.card, mine.device)


def test_what_can_be_opened_but_not_read_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = Gpu(tmp_path), Gpu(tmp_path)

    def fail(_device: Array, _out: Array) -> None:
        raise RuntimeError("cudaErrorIllegalAddress")

    monkeypatch.setattr(other.device, "download", fail)
    with pytest.raises(OSError, match=r"it cannot be read \(cudaErrorIllegalAddress\)"):
        open_device_memory(mine.card, other.device)


def test_there_is_a_place_for_as_many_vectors_as_were_announced(tmp_path: Path) -> None:
    mine = Gpu(tmp_path)
    vectors = [mine.memory.zeros(10, "float64") for _ in range(2)]
    offsets = [mine.memory.offset(vector.view(np.uint8)) for vector in vectors]
    assert offsets == [mine.card.offset, 512]
    assert mine.memory.offset(mine.device.zeros((10,), "float64").view(np.uint8)) is None
    private = mine.memory.zeros(10, "float64")  # and goes as a message
    assert mine.memory.offset(private.view(np.uint8)) is None
    np.testing.assert_array_equal(np.asarray(private), np.zeros(10))


class Pair:
    """A server and a worker whose vectors are on a GPU each; the server sees the worker's
    gradient."""

    def __init__(self, folder: Path, *, shared: bool) -> None:
        self.gpus = Gpu(folder), Gpu(folder)
        server, worker = self.gpus
        self.weights = server.memory.zeros(10, "float64")
        self.gradient = worker.memory.zeros(10, "float64")
        self.slot = server.device.zeros((4,), "float64")
        neighbours = {}
        if shared:
            seen = open_device_memory(worker.card, server.device)
            back = open_device_memory(server.card, worker.device)
            self.slot = seen.vector(range(2, 6), "float64")
            neighbours = {
                SERVER: Neighbours(server.memory, {WORKER: seen}),
                WORKER: Neighbours(worker.memory, {SERVER: back}),
            }
        self.pulled = worker.device.zeros((10,), "float64")
        devices = {rank: gpu.device for rank, gpu in enumerate(self.gpus)}
        network = InMemoryNetwork(2, neighbours, devices)
        self.server, self.worker = network.endpoints
        self.server.landing = lambda _peer, _message: self.slot
        self.worker.landing = lambda _peer, _message: self.pulled


@pytest.mark.parametrize("shared", [True, False])
def test_a_push_is_complete_where_the_server_reads_it(tmp_path: Path, shared: bool) -> None:
    pair = Pair(tmp_path, shared=shared)
    server, worker = pair.gpus
    worker.put(pair.gradient, range(10))
    pair.worker.send(SERVER, GRADIENT, pair.gradient[2:6])
    assert pair.server.poll() == Arrival(WORKER, GRADIENT)
    assert server.read(pair.slot) == [2, 3, 4, 5]


@pytest.mark.parametrize("shared", [True, False])
def test_a_pull_is_copied_and_only_then_confirmed(tmp_path: Path, shared: bool) -> None:
    pair = Pair(tmp_path, shared=shared)
    server, worker = pair.gpus
    server.put(pair.weights, [5] * 10)
    sending = pair.server.send(WORKER, weights(1), pair.weights)
    assert not sending.done
    assert pair.worker.poll() == Arrival(SERVER, weights(1))
    assert pair.server.poll() is None
    assert sending.done
    server.put(pair.weights, [6] * 10)
    server.device.synchronize()
    assert worker.read(pair.pulled) == [5] * 10


def test_what_was_asked_of_a_slot_is_done_before_its_worker_may_write_there(
    tmp_path: Path,
) -> None:
    pair = Pair(tmp_path, shared=True)
    server, worker = pair.gpus
    worker.put(pair.gradient, [1] * 10)
    pair.worker.send(SERVER, GRADIENT, pair.gradient[2:6])
    assert pair.server.poll() == Arrival(WORKER, GRADIENT)
    server.device.copy(pair.slot, pair.weights[2:6])
    pair.server.send(WORKER, weights(1), pair.weights)
    worker.put(pair.gradient, [2] * 10)
    worker.device.synchronize()
    assert server.read(pair.weights) == [0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
