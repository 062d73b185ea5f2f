"""What every codec promises, and whole jobs whose payloads are nothing like vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_memory.jobs import train
from wire.codecs import Large, Sign, registered

import psdp.job
from psdp.backend import Backend, make_backend
from psdp.params import Array
from psdp.wire import CODECS, Codec, make_codec

SIZES = (0, 1, 7, 8, 1000)
every_codec = pytest.mark.parametrize("kind", [*CODECS.values(), Sign, Large], ids=lambda k: k.name)


@pytest.fixture(params=["compiled", "numpy"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return make_backend("cpu", "float32", kernels=request.param)


def vectors(size: int, count: int) -> list[Array]:
    rng = np.random.default_rng(size)
    return [rng.standard_normal(size).astype(np.float32) for _ in range(count)]


def payload_of(codec: Codec, vector: Array, backend: Backend) -> Array:
    out = np.zeros(codec.bound(vector.size), codec.item)
    return out[: codec.encoder(vector.size, backend)(vector, out)]


@every_codec
@pytest.mark.parametrize("size", SIZES)
def test_a_payload_is_within_its_bound_and_shorter_only_if_that_is_said(
    kind: type[Codec], size: int, backend: Backend
) -> None:
    codec = kind("float32")
    (vector,) = vectors(size, 1)
    same = vector.copy()
    payload = payload_of(codec, vector, backend)
    assert np.array_equal(vector, same), "it is only read"
    assert payload.nbytes <= codec.bound_bytes(size)
    assert codec.varies or payload.nbytes == codec.bound_bytes(size)
    assert not codec.by_element or payload.size == size


@every_codec
@pytest.mark.parametrize("size", SIZES)
def test_the_mean_is_that_of_what_each_payload_stands_for(
    kind: type[Codec], size: int, backend: Backend
) -> None:
    codec = kind("float32")
    payloads = [payload_of(codec, vector, backend) for vector in vectors(size, 3)]
    decoded = []
    for payload in payloads:
        alone = np.full(size, np.nan, np.float32)
        codec.mean([payload], [5.0], alone, backend)
        decoded.append(alone)
    mean = np.full(size, np.nan, np.float32)
    codec.mean(payloads, [1.0, 2.0, 5.0], mean, backend)
    expected = np.average(np.array(decoded, np.float64), axis=0, weights=[1.0, 2.0, 5.0])
    np.testing.assert_allclose(mean, expected, atol=1e-6)  # float32


@every_codec
def test_what_is_not_finite_is_not_lost(kind: type[Codec], backend: Backend) -> None:
    (vector,) = vectors(100, 1)
    vector[41] = np.nan
    codec, mean = kind("float32"), np.zeros(100, np.float32)
    with np.errstate(invalid="ignore"):
        codec.mean([payload_of(codec, vector, backend)], [1.0], mean, backend)
    assert not np.isfinite(mean).all()


def test_float32_is_the_vector_itself_and_so_is_float64(backend: Backend) -> None:
    for name, dtype in (("float32", "float32"), (None, "float64"), (None, "float32")):
        codec = make_codec(name, dtype)
        assert (codec.as_it_is, codec.item, codec.bound(7)) == (True, np.dtype(dtype), 7)


# Jobs with codecs that are not psdp's

COMMON: dict[str, Any] = {"dtype": "float32", "lr": 1e-2, "max_steps": 60, "workers": 2}
MODES: list[dict[str, Any]] = [
    {"mode": "sync"},
    {"mode": "async"},
    {"mode": "sync", "overlap": True},
    {"mode": "local", "local_steps": 3},
]


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("servers", "transport"), [(1, "messages"), (3, "auto")])
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("codec", [Sign, Large], ids=lambda k: k.name)
def test_a_job_learns_with_a_codec_of_any_kind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codec: type[Codec],
    mode: dict[str, Any],
    servers: int,
    transport: str,
) -> None:
    monkeypatch.setattr(psdp.job, "make_codec", registered(codec))
    how = COMMON | mode | {"servers": servers, "transport": transport}
    run = train(tmp_path / "run", record=True, **how)
    losses = [record["loss"] for record in run.metrics("train")]
    assert min(losses[-5:]) < losses[0] - 0.5  # one worker may have begun late
    plain = 4 * run.job.table.size * run.summary["bytes_pulled"] // run.summary["bytes_pulled"]
    assert run.summary["bytes_pushed"] % plain
    again = train(tmp_path / "again", replay=str(run.folder), **how)
    np.testing.assert_array_equal(run.weights, again.weights)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("transport", ["auto", "messages"])
def test_payloads_that_are_shorter_than_their_bound_are_what_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    monkeypatch.setattr(psdp.job, "make_codec", registered(Large))
    run = train(tmp_path, servers=2, transport=transport, **COMMON)
    pushes = COMMON["max_steps"] * COMMON["workers"]
    pushed = run.summary["bytes_pushed"]
    assert 0 < pushed < pushes * 8 * run.job.table.size
    assert pushed % 8 == 0
