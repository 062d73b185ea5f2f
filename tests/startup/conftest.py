"""What tests of the start share."""

from __future__ import annotations

from pathlib import Path

import pytest
from saved_run import SavedRun


@pytest.fixture
def case(tmp_path: Path) -> SavedRun:
    return SavedRun(tmp_path / "run")
