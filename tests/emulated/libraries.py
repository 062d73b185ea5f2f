"""The libraries of an emulated device."""

from __future__ import annotations

from emulated.blas import CublasLt
from emulated.cudnn import Cudnn
from emulated.device import EmulatedDevice

from psdp.backend.gpu.cublas import LtGemm
from psdp.backend.gpu.cudnn import CudnnAttention


def attention(device: EmulatedDevice, *faults: str) -> tuple[Cudnn, CudnnAttention]:
    module = Cudnn(*faults)
    return module, CudnnAttention(module, device.do)


def gemm(device: EmulatedDevice, *faults: str) -> tuple[CublasLt, LtGemm]:
    binding = CublasLt(device.do, *faults)
    return binding, LtGemm(binding, device.workspace, stream=0, tf32=False)
