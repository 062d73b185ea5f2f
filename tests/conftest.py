"""What holds for every test."""

from pathlib import Path

import pytest
from hypothesis import settings

# A loaded machine is slow, not wrong.
settings.register_profile("psdp", deadline=None)
settings.load_profile("psdp")


@pytest.fixture(scope="session")
def kernel_folder(pytestconfig: pytest.Config) -> Path:
    """Where CUDA kernels that were compiled for this CPU lie, named by what they were made of."""
    assert pytestconfig.cache is not None
    return pytestconfig.cache.mkdir("emulated-kernels")
