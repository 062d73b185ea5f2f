"""What is kept, and who may make it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from psdp.data.cache import alone, keep
from psdp.processes import MainThread


def test_who_waits_for_another_to_make_it_looks_up(tmp_path: Path) -> None:
    kept, has_it = tmp_path / "kept", threading.Event()
    moved: list[bool] = []

    def make() -> None:
        with alone(kept):
            has_it.set()
            thread, end = MainThread(), threading.Event()
            end.wait(0.1)  # what it did before it waits
            thread.has_moved()
            moved.extend(thread.has_moved() for _ in range(2) if not end.wait(0.4))

    maker = threading.Thread(target=make)
    maker.start()
    has_it.wait(10)
    with alone(kept):
        assert moved == [True, True]
    maker.join()


def test_nothing_is_left_of_what_could_not_be_kept(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with pytest.raises(OSError, match="directory"):
        keep(tmp_path / "kept", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
