"""Real MPI jobs whose workers compute on a GPU, emulated: every mode, and what is said where the
model does not fit."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from mpi import CODE
from tiny import RANK, summary, train, weights, write_corpus

pytestmark = [pytest.mark.mpi, pytest.mark.one_mpi, pytest.mark.timeout(150)]

WITH_EMULATED_GPU = """
import os, signal, sys
sys.path.append({tests!r})
from pathlib import Path
from emulated.device import EmulatedDevice
from psdp.backend.gpu import cupy_device
from psdp.startup import probe
from psdp.worker import main
def open_device(local_rank, *, tf32=False):
    return EmulatedDevice(Path({kernels!r}), free={free}, room={room}, apart=True)
def refuse(self, handle):
    raise OSError(0, "no peer access")
cupy_device.open_device = open_device
probe.OPENER = "{module}:open_device"
{change}
if __name__ == "__main__":
    sys.exit(main())
"""
NO_IPC = f'if __name__ == "__main__" and {RANK} == 2: EmulatedDevice.open = refuse'
"""One worker of two cannot see the server's memory."""
NO_MPI = 'if __name__ != "__main__": os.kill(os.getpid(), signal.SIGSEGV)'
"""A trial of MPI, which is no rank of the job, ends so."""
STEPS = ("--max-steps", "6", "--eval-every", "0", "--eval-batches", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


@pytest.fixture
def on_gpu(folder: Path, kernel_folder: Path) -> Callable[..., CompletedProcess[str]]:
    """Run a job whose workers find a GPU."""

    def run(
        ranks: int, *flags: str, free: int = 2**40, room: int = 2**40, change: str = ""
    ) -> CompletedProcess[str]:
        code = WITH_EMULATED_GPU.format(
            tests=str(Path(__file__).parents[1]),
            kernels=str(kernel_folder),
            free=free,
            room=room,
            module=CODE,
            change=change,
        )
        return train(folder, ranks, *STEPS, *flags, code=code, timeout_s=120)

    return run


@pytest.mark.parametrize(
    "flags",
    [("--mode", "allreduce"), ("--mode", "sync", "--servers", "2", "--server-device", "gpu")],
    ids=" ".join,
)
def test_a_job_on_gpus_ends_where_one_on_cpus_does(
    folder: Path, on_gpu: Callable[..., CompletedProcess[str]], flags: tuple[str, ...]
) -> None:
    ranks = 4 if "--servers" in flags else 3
    same = ("--dtype", "float64", *flags)
    gpu = on_gpu(ranks, *same, "--device", "gpu", "--out", "gpu")
    assert gpu.returncode == 0, gpu.stdout
    assert "cuda kernels" in gpu.stdout
    on_cpu = ("--server-device", "cpu", "--kernels", "numpy")
    cpu = train(folder, ranks, *STEPS, *same, *on_cpu, "--out", "cpu")
    assert cpu.returncode == 0, cpu.stdout
    np.testing.assert_allclose(weights(folder / "gpu"), weights(folder / "cpu"), atol=1e-7)
    losses = [summary(folder / run)["val_loss"] for run in ("gpu", "cpu")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-8)


def test_a_job_in_bfloat16_learns(
    folder: Path, on_gpu: Callable[..., CompletedProcess[str]]
) -> None:
    flags = ("--mode", "ssp", "--servers", "2", "--dropout", "0.1")
    job = on_gpu(4, "--device", "auto", "--precision", "bf16", *flags, "--eval-every", "6",
                 "--max-steps", "12", "--out", "run")  # fmt: skip
    assert job.returncode == 0, job.stdout
    assert "cuda bf16 kernels" in job.stdout
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [record["val_loss"] for record in map(json.loads, lines) if record["kind"] == "eval"]
    assert min(losses) < losses[0] - 0.5


def test_what_gpus_push_in_bfloat16_is_what_cpus_push(
    folder: Path, on_gpu: Callable[..., CompletedProcess[str]]
) -> None:
    ranks, flags = 4, ("--servers", "2", "--server-device", "gpu")
    same = ("--wire-dtype", "bf16", "--optimizer", "sgd", *flags)
    gpu = on_gpu(ranks, *same, "--device", "gpu", "--out", "gpu")
    assert gpu.returncode == 0, gpu.stdout
    cpu = train(folder, ranks, *STEPS, *same, "--server-device", "cpu", "--out", "cpu")
    assert cpu.returncode == 0, cpu.stdout
    # A number next to a tie may be rounded the other way, by 2^-8 of a small step.
    np.testing.assert_allclose(weights(folder / "gpu"), weights(folder / "cpu"), atol=1e-3)
    results = [summary(folder / run) for run in ("gpu", "cpu")]
    assert results[0]["val_loss"] == pytest.approx(results[1]["val_loss"], abs=1e-3)
    assert results[0]["bytes_pushed"] == results[1]["bytes_pushed"]
    assert 2 * results[0]["bytes_pushed"] < results[0]["bytes_pulled"]


COUNTED = """
import atexit
moved = []
def counting(copy):
    def counted(self, source, out):
        moved.extend([None] * (source.size > 10_000))
        copy(self, source, out)
    return counted
EmulatedDevice.upload = counting(EmulatedDevice.upload)
EmulatedDevice.download = counting(EmulatedDevice.download)
EmulatedDevice.download_async = counting(EmulatedDevice.download_async)
if __name__ == "__main__":
    atexit.register(lambda: print(f"moved {len(moved)} vectors", flush=True))
"""


def test_no_vector_leaves_the_gpus_but_to_be_saved_or_compared(
    folder: Path, on_gpu: Callable[..., CompletedProcess[str]]
) -> None:
    """The server begins with weights of the host's, copies these and two vectors of AdamW at the
    end, and hands that copy out to be evaluated; one of the workers says what its weights are."""
    flags = ("--server-device", "gpu", "--device", "gpu", "--backup-workers", "1", "--out", "run")
    job = on_gpu(4, *flags, change=COUNTED)
    assert job.returncode == 0, job.stdout
    moved = [int(count) for count in re.findall(r"moved (\d+) vectors", job.stdout)]
    assert sorted(moved) == [0, 0, 1, 5]


SAID = {
    "gpu shared": "vectors in GPU memory (CUDA IPC), cuda",
    "gpu messages": "vectors from GPU to GPU as MPI messages, cuda",
    "gpu mixed": "vectors of 1 of 2 server-worker pairs in GPU memory (CUDA IPC), others from GPU "
    "to GPU as MPI messages (rank 2 cannot open the memory of rank 0: no peer access), cuda",
    "shared": "vectors in shared memory, not in GPU memory (rank 2 cannot open the memory of rank "
    "0: no peer access; HOST: MPI is not CUDA-aware: sending from GPU memory ended a trial by "
    "SIGSEGV), cuda",
    "messages": "vectors as MPI messages, not in GPU memory (HOST: MPI is not CUDA-aware: sending "
    "from GPU memory ended a trial by SIGSEGV), cuda",
}


def check_transport(job: CompletedProcess[str], run: Path, transport: str) -> None:
    """See that a job says how its vectors went, wherever one looks."""
    assert job.returncode == 0, job.stdout
    assert SAID[transport].replace("HOST", platform.node()) in job.stdout
    config = json.loads((run / "config.json").read_text())
    assert (config["transport"], summary(run)["transport"]) == (transport, transport)


@pytest.mark.parametrize(
    ("transport", "flags"),
    [
        ("gpu shared", ("--mode", "sync", "--overlap", "--grad-clip-value", "0.1")),
        ("gpu mixed", ("--mode", "local", "--local-steps", "3")),
        (
            "gpu messages",
            ("--mode", "async", "--servers", "2", "--lag-compensation", "dc-asgd", "--l1", "0.01"),
        ),
        ("gpu messages", ("--mode", "easgd", "--local-steps", "2", "--eval-every", "2")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_vectors_that_stay_on_gpus_are_those_that_go_by_the_hosts(
    folder: Path,
    on_gpu: Callable[..., CompletedProcess[str]],
    transport: str,
    flags: tuple[str, ...],
) -> None:
    """Where workers do not wait for one another there is one, so that all is in one order."""
    ranks = 3 if "sync" in flags or "local" in flags or "--servers" in flags else 2
    same = ("--dtype", "float64", "--device", "gpu", "--server-device", "gpu", *flags)
    by = ("--transport", "messages") if transport == "gpu messages" else ()
    without = NO_IPC if transport == "gpu mixed" else ""
    job = on_gpu(ranks, *same, *by, "--out", "gpu", change=without)
    check_transport(job, folder / "gpu", transport)
    host = on_gpu(ranks, *same, *by, "--out", "host", change=f"{NO_IPC}\n{NO_MPI}")
    check_transport(host, folder / "host", "messages" if by else "shared")
    np.testing.assert_allclose(weights(folder / "gpu"), weights(folder / "host"), atol=1e-9)
    results = [summary(folder / run) for run in ("gpu", "host")]
    assert results[0]["val_loss"] == pytest.approx(results[1]["val_loss"], rel=1e-9)
    assert results[0]["bytes_pushed"] == results[1]["bytes_pushed"]


def test_ranks_that_need_more_memory_than_their_gpu_has_are_refused(
    folder: Path, on_gpu: Callable[..., CompletedProcess[str]]
) -> None:
    # The libraries' 64 MiB fit once, but not twice.
    job = on_gpu(3, "--device", "gpu", "--out", "run", free=100 * 2**20)
    assert job.returncode == 2
    said = [line for line in job.stdout.splitlines() if line.startswith("psdp: ")]
    assert len(said) == 1
    assert "emulated GPU on" in said[0]
    assert "its 2 ranks need 0.1" in said[0]
    assert "lower --batch-size or --block-size, or start fewer ranks" in said[0]
    assert not (folder / "run").exists()
    assert on_gpu(2, "--device", "gpu", "--out", "run", free=100 * 2**20).returncode == 0


def test_a_profile_tells_the_kernels_of_a_gpu(
    folder: Path, on_gpu: Callable[..., CompletedProcess[str]]
) -> None:
    job = on_gpu(2, "--device", "gpu", "--profile", "--precision", "tf32", "--out", "run")
    assert job.returncode == 0, job.stdout
    assert "cuda tf32 kernels" in job.stdout
    assert "attention" in job.stdout


WITH_LIBRARIES = """
from emulated.libraries import attention, gemm
from psdp.backend.gpu.libraries import Libraries
def libraries(self):
    return Libraries(attention(self)[1], gemm(self{fault})[1])
EmulatedDevice.libraries = libraries
"""


def test_a_job_says_which_libraries_compute_in_it(
    folder: Path, on_gpu: Callable[..., CompletedProcess[str]]
) -> None:
    flags = ("--device", "gpu", "--precision", "bf16", "--batch-size", "128", "--max-steps", "2")
    job = on_gpu(2, *flags, "--profile", "--out", "fused", change=WITH_LIBRARIES.format(fault=""))
    assert job.returncode == 0, job.stdout
    assert "cuda bf16 (cuDNN 9.28, cuBLASLt 12.9) kernels; " in job.stdout
    assert "worker 1 went, cuda bf16 (cuDNN 9.28, cuBLASLt 12.9) kernels, bf16" in job.stdout
    broken = WITH_LIBRARIES.format(fault=", 'no bias'")
    job = on_gpu(2, *flags, "--out", "broken", change=broken)
    assert job.returncode == 0, job.stdout
    assert "psdp: cuBLASLt 12.9 is not used (ArithmeticError: its bias is off by" in job.stdout
    assert "cuda bf16 (cuDNN 9.28) kernels; " in job.stdout
    losses = [summary(folder / run)["val_loss"] for run in ("broken", "fused")]
    assert losses[1] == pytest.approx(losses[0], abs=0.01)


def test_memory_that_others_take_meanwhile_is_told_with_what_was_to_be_held(
    folder: Path, on_gpu: Callable[..., CompletedProcess[str]]
) -> None:
    job = on_gpu(2, "--device", "gpu", "--n-embd", "256", "--out", "run", room=4 * 2**20)
    assert job.returncode == 2
    (said,) = [line for line in job.stdout.splitlines() if line.startswith("psdp: ")]
    assert "more were needed; a worker holds 0." in said
    assert "mlp inner" in said
    assert "lower --batch-size or --block-size" in said
