"""The writer's thread: in order, one at a time, and never a lost error."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from psdp.checkpoint import BackgroundWriter
from psdp.errors import CheckpointError


def test_results_come_in_order_and_once() -> None:
    writer: BackgroundWriter[int] = BackgroundWriter()
    for value in range(5):
        writer.submit(lambda value=value: value * value)
    assert writer.close(timeout_s=10) == [0, 1, 4, 9, 16]
    assert writer.poll() == []


def test_poll_does_not_wait_for_a_running_job() -> None:
    writer: BackgroundWriter[str] = BackgroundWriter()
    go = threading.Event()
    writer.submit(lambda: str(go.wait(10)))
    assert writer.poll() == []
    assert writer.busy
    go.set()
    assert writer.close(timeout_s=10) == ["True"]
    assert not writer.busy


def test_jobs_queue_up_without_waiting_where_no_bound_is_given() -> None:
    writer: BackgroundWriter[str] = BackgroundWriter()
    go = threading.Event()
    writer.submit(lambda: str(go.wait(10)))
    writer.submit(lambda: "second")
    writer.submit(lambda: "third")
    assert writer.busy
    go.set()
    assert writer.close(10) == ["True", "second", "third"]


def test_submit_waits_until_few_enough_jobs_are_ahead() -> None:
    writer: BackgroundWriter[str] = BackgroundWriter()
    go, order = threading.Event(), []
    writer.submit(lambda: order.append(f"first {go.wait(10)}") or "first")
    second = threading.Thread(
        target=writer.submit, args=(lambda: order.append("second") or "second", 0), daemon=True
    )
    second.start()
    second.join(0.05)
    assert second.is_alive()
    go.set()
    second.join(10)
    assert writer.close(timeout_s=10) == ["first", "second"]
    assert order == ["first True", "second"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES])
def test_an_os_error_is_a_checkpoint_error_that_names_path_and_reason(code: int) -> None:
    writer: BackgroundWriter[None] = BackgroundWriter()

    def fail() -> None:
        raise OSError(code, os.strerror(code), "/run/step-000100-v000100")

    writer.submit(fail)
    with pytest.raises(CheckpointError) as caught:
        writer.close(timeout_s=10)
    assert f"could not write /run/step-000100-v000100: {os.strerror(code)}" in str(caught.value)


def test_after_an_error_the_next_job_runs_and_its_result_is_kept() -> None:
    writer: BackgroundWriter[int] = BackgroundWriter()

    def fail() -> int:
        raise CheckpointError("no")

    writer.submit(fail)
    writer.submit(lambda: 7)
    with pytest.raises(CheckpointError, match="no"):
        writer.close(timeout_s=10)
    assert writer.poll() == [7]


def test_a_bug_in_a_job_is_raised_as_it_is() -> None:
    writer: BackgroundWriter[float] = BackgroundWriter()
    writer.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.close(timeout_s=10)


def test_close_gives_up_on_a_job_that_hangs() -> None:
    writer: BackgroundWriter[bool] = BackgroundWriter()
    go = threading.Event()
    writer.submit(lambda: go.wait(10))
    with pytest.raises(CheckpointError, match=r"not written within 0\.01 s"):
        writer.close(timeout_s=0.01)
    go.set()
    assert writer.close(timeout_s=10) == [True]


def test_a_running_job_does_not_keep_a_dying_process_alive() -> None:
    program = """
import time
from psdp.checkpoint import BackgroundWriter
writer = BackgroundWriter()
writer.submit(lambda: time.sleep(100))
raise SystemExit(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        timeout=30,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 3
