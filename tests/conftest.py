"""What holds for every test."""

import gc
from pathlib import Path

import pytest
from hypothesis import settings

# A loaded machine is slow, not wrong.
settings.register_profile("psdp", deadline=None)
settings.load_profile("psdp")


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
