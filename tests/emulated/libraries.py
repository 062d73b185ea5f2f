"""The libraries of an emulated device."""

from __future__ import annotations

import numpy as np
from emulated.blas import CublasLt
from emulated.cudnn import Cudnn
from emulated.device import EmulatedDevice

from psdp.backend.cudnn_attention import CudnnAttention
from psdp.backend.products import WORKSPACE_BYTES, LtProducts


def attention(device: EmulatedDevice, *faults: str) -> tuple[Cudnn, CudnnAttention]:
    module = Cudnn(*faults)
    return module, CudnnAttention(module, device.do)


def products(device: EmulatedDevice, *faults: str) -> tuple[CublasLt, LtProducts]:
    binding = CublasLt(device.do, *faults)
    workspace = device.empty((WORKSPACE_BYTES,), np.uint8)
    return binding, LtProducts(binding, workspace, stream=0, tf32=False)
