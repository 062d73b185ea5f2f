"""What holds for all jobs in memory."""

from collections.abc import Iterator

import pytest

from psdp.workers import spare


@pytest.fixture(autouse=True)
def _spares_look_up_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs here are over in no time."""
    monkeypatch.setattr(spare, "NAP_S", 1e-3)


@pytest.fixture(autouse=True)
def _errors_keep_no_job(request: pytest.FixtureRequest) -> Iterator[None]:
    """An error that is a parameter of a test is there to the end of all; it would keep the job that
    it was raised in, with its files."""
    yield
    given = request.node.callspec.params.values() if hasattr(request.node, "callspec") else ()
    for error in (value for value in given if isinstance(value, BaseException)):
        error.__traceback__ = error.__context__ = error.__cause__ = None
