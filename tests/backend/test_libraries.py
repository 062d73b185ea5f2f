"""What libraries do for a GPU backend: the right thing, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emulated.device import EmulatedDevice
from emulated.libraries import attention, gemm

from psdp.backend import make_backend
from psdp.backend.gpu.backend import GpuBackend
from psdp.backend.gpu.cudnn import LEAST_TOKENS
from psdp.backend.gpu.libraries import AttentionShape, Libraries, Unsupported, opened
from psdp.backend.gpu.trial import trusted
from psdp.config import Config, ModelConfig, RunConfig
from psdp.nn.memory import training_memory
from psdp.nn.transformer import Transformer, parameter_table
from psdp.params import Array
from psdp.task import Step

MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=32, block_size=128, dropout=0.0)
BATCH = LEAST_TOKENS // MODEL.block_size


@pytest.fixture
def device(kernel_folder: Path) -> EmulatedDevice:
    return EmulatedDevice(kernel_folder)


def offer(device: EmulatedDevice, *faults: str) -> None:
    device.offered = Libraries(attention(device, *faults)[1], gemm(device, *faults)[1])


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_libraries_that_compute_what_psdp_does_are_trusted(
    device: EmulatedDevice, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(device)
    found = trusted(device, "float32", precision)
    assert found.gemm is device.offered.gemm
    assert found.attention is (device.offered.attention if precision == "bf16" else None)
    assert trusted(device, "float64", "float32") == Libraries()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no scale", "its attention is off by"),
        ("sees the future", "its attention is off by"),
        ("another mask", "its dropout is off by"),
        ("drops nothing", "it drops nothing"),
        ("refuses", "no engine"),
        ("no bias", "its bias is off by"),
        ("no gelu", "its gelu is off by"),
    ],
)
def test_a_library_that_does_not_is_named_and_left_out(
    device: EmulatedDevice, fault: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(device, fault)
    found = trusted(device, "float32", "bf16")
    error = capsys.readouterr().err
    assert said in error
    of_products = fault in ("no bias", "no gelu", "refuses")
    assert (found.gemm is None) == of_products
    assert (found.attention is None) == (not of_products or fault == "refuses")
    assert ("cuBLASLt 12.9 is not used" in error) == of_products


def test_a_library_that_is_not_installed_is_not_spoken_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def raising(error: Exception) -> Callable[[], str]:
        def library() -> str:
            raise error

        return library

    assert opened("cuDNN", lambda: "cuDNN 9") == "cuDNN 9"
    assert opened("cuDNN", raising(ModuleNotFoundError("no module"))) is None
    assert capsys.readouterr().err == ""
    assert opened("cuDNN", raising(ImportError("GLIBC_2.99 not found"))) is None
    assert capsys.readouterr().err == (
        "psdp: cuDNN is not used (ImportError: GLIBC_2.99 not found)\n"
    )
    assert opened("cuDNN", raising(OSError("libcudnn.so.9: of another world\nTraceback"))) is None
    said = "psdp: cuDNN is not used (OSError: libcudnn.so.9: of another world)\n"
    assert capsys.readouterr().err == said


def step(backend: GpuBackend, config: ModelConfig, times: int = 1) -> tuple[float, Array]:
    """Return the loss and the gradient after so many steps on the same batch."""
    table = parameter_table(config, 24)
    weights, gradient = backend.empty(table.size), backend.zeros(table.size)
    backend.to_device(table.initial(1, "float32"), weights)
    model = Transformer(config, 24, BATCH, backend, weights, gradient)
    tokens = np.random.default_rng(0).integers(24, size=(BATCH, config.block_size))
    for _ in range(times):
        backend.clear(gradient)
        backend.clear(model.loss)
        model.forward_backward(tokens, np.roll(tokens, -1), Step(rng=np.random.default_rng(3)))
    return model.total_loss(), backend.on_host(gradient)


@pytest.mark.parametrize("bias", [True, False])
def test_a_model_is_the_same_with_libraries(device: EmulatedDevice, bias: bool) -> None:
    config = ModelConfig(**{**vars(MODEL), "bias": bias})
    (cudnn, fused_attention), (lt, fused_products) = attention(device), gemm(device)
    libraries = Libraries(fused_attention, fused_products)
    own = step(GpuBackend(device, "float32", "bf16"), config)
    device.launches.clear()
    theirs = step(GpuBackend(device, "float32", "bf16", libraries), config)
    assert theirs[0] == pytest.approx(own[0], abs=2e-4)
    np.testing.assert_allclose(theirs[1], own[1], atol=0.02 * np.abs(own[1]).max())
    assert cudnn.executed == 2 * config.n_layer  # forward and backward
    # Without biases the plain product is as good, but for gelu.
    assert lt.multiplied == config.n_layer * (4 if bias else 1)
    assert not {"attention", "bias_gelu"} & set(device.launches)


def test_a_step_that_is_captured_draws_its_masks_anew_in_a_library_too(
    device: EmulatedDevice,
) -> None:
    config = ModelConfig(**{**vars(MODEL), "dropout": 0.2})
    libraries = Libraries(attention(device)[1], gemm(device)[1])
    once = step(GpuBackend(device, "float32", "bf16", libraries), config)
    again = step(GpuBackend(device, "float32", "bf16", libraries), config, times=3)
    assert once[0] == again[0]
    np.testing.assert_array_equal(once[1], again[1])
    without = step(GpuBackend(device, "float32", "bf16", libraries), MODEL)
    assert without[0] != once[0]


@pytest.mark.parametrize(
    "shape",
    [(1, 2, 128, 16, 0.0), (BATCH, 1, 128, 12, 0.0)],
    ids=["few tokens", "a head that cuDNN refuses"],
)
def test_psdp_attends_where_a_library_does_not(
    device: EmulatedDevice, shape: tuple[int, int, int, int, float]
) -> None:
    cudnn, library = attention(device)
    batch, heads, length, head, _ = shape
    with pytest.raises(Unsupported):
        library.plan(AttentionShape(*shape))
    backend = GpuBackend(device, "float32", "bf16", Libraries(attention=library))
    rows, width = batch * length, heads * head
    qkv, out = (backend.zeros(rows, n * width, dtype=np.uint16) for n in (3, 1))
    backend.attention(qkv, batch, heads, None, out, backend.zeros(batch, heads, length))
    assert device.launches[-1] == "attention"
    assert cudnn.executed == 0


def test_factors_that_lie_at_odd_places_have_algorithms_of_their_own(
    device: EmulatedDevice,
) -> None:
    _, library = gemm(device)
    backend = GpuBackend(device, "float32", "float32", Libraries(gemm=library))
    rng = np.random.default_rng(0)
    flat, x, y = backend.empty(2000), backend.empty(8, 16), backend.empty(8, 24)
    backend.to_device(rng.standard_normal(2000), flat)
    backend.to_device(rng.standard_normal((8, 16)), x)
    for start in (0, 1, 5, 64):
        weight, bias = flat[start : start + 384].reshape(16, 24), flat[start + 400 : start + 424]
        backend.affine(x, weight, bias, y)
        expected = np.asarray(x) @ np.asarray(weight) + np.asarray(bias)
        np.testing.assert_allclose(np.asarray(y), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(Unsupported, match="multiple of 8"):
        library.multiply(x, flat[:48].reshape(16, 3), None, y[:, :3].copy(), inner=y[:, :3].copy())


def test_the_memory_of_libraries_is_counted(device: EmulatedDevice) -> None:
    config = Config(model=MODEL, run=RunConfig(batch_size=BATCH))
    how = (config, 24, "float32", "bf16")
    module, library = attention(device)
    module.workspace_bytes = 2**28
    without = training_memory(*how)
    with_attention = training_memory(*how, Libraries(attention=library))
    assert 2**27 < with_attention.total() - without.total() <= 2**28
    assert module.executed == 0


@pytest.mark.parametrize(("kernels", "named"), [("auto", True), ("compiled", False)])
def test_kernels_say_whether_libraries_are_used(
    device: EmulatedDevice,
    kernels: str,
    named: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offer(device)
    opened: Callable[..., EmulatedDevice] = lambda *_, **__: device  # noqa: E731
    monkeypatch.setattr("psdp.backend.gpu.cupy_device.open_device", opened)
    backend = make_backend("gpu", "float32", kernels=kernels, precision="bf16")
    assert backend.kernels == "cuda bf16" + " (cuDNN 9.28, cuBLASLt 12.9)" * named
