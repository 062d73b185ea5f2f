"""What holds for every test."""

import gc
from pathlib import Path

import in_turns  # noqa: F401 (before psdp)
import pytest
from hypothesis import settings

# A loaded machine is slow, not wrong.
settings.register_profile("psdp", deadline=None)
settings.load_profile("psdp")

LONG_S = 200
"""A test that may take as long is a long one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what may take minutes begin first, so that at the end no process waits for another."""

    def is_short(item: pytest.Item) -> bool:
        limit = item.get_closest_marker("timeout")
        return limit is None or limit.args[0] < LONG_S

    items.sort(key=is_short)


def pytest_collection_finish() -> None:
    """Let no later garbage collection look through what has been imported and collected, which is
    there to the end: it would take a third of a second, and each job in memory asks for one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def kernel_folder(pytestconfig: pytest.Config) -> Path:
    """Where CUDA kernels that were compiled for this CPU lie, named by what they were made of."""
    assert pytestconfig.cache is not None
    return pytestconfig.cache.mkdir("emulated-kernels")
