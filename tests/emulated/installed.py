"""What the libraries that are installed say, without a GPU, of what psdp asks of them for an H100.

Run by itself, as a process that found h100.c as its CUDA driver; prints JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from psdp.backend.gpu.cudnn import CudnnAttention
from psdp.backend.gpu.libraries import AttentionShape, Unsupported

H100 = {
    "deviceName": "NVIDIA H100 80GB HBM3", "deviceVer": 900, "driverVer": 12090, "smVersion": 900,
    "cudaDeviceId": 0, "pciDeviceId": 0, "totalGlobalMem": 85_000_000_000,
    "multiProcessorCount": 132, "smCountOrigin": 0, "warpSize": 32,
    "maxGridSize": [2**31 - 1, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
    "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "maxCtasPerSM": 32,
    "regsPerBlock": 65536, "maxRegistersPerSM": 65536,
    "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
    "oversizedSharedMemoryPerBlock": 0, "reservedSharedMemoryPerBlock": 1024,
    "smClockRateKHz": 1_980_000, "memClockRateKHz": 2_619_000, "memoryBusWidth": 5120,
    "l2CacheSize": 52_428_800, "isTccDriver": 0, "supportCoopLaunch": 1,
}  # fmt: skip


def plans(shapes: list[list[Any]]) -> list[int | str]:
    """Return the workspace of cuDNN's plan for each shape, or why it has none."""
    import cudnn

    properties = cudnn.create_device_properties(json.dumps(H100))
    library = CudnnAttention(cudnn, None, properties)
    found: list[int | str] = []
    for shape in shapes:
        try:
            found.append(library.plan(AttentionShape(*shape)).workspace_bytes)
        except Unsupported as error:
            found.append(str(error))
    return found


def binding_of_cublaslt() -> dict[str, dict[str, str]]:
    """Return the numbers and types of nvmath's binding, by what they are of."""
    from nvmath.bindings import cublasLt

    return described(cublasLt)


def described(binding: Any) -> dict[str, dict[str, str]]:
    """Return the same of any such binding."""
    members: dict[str, dict[str, str]] = {}
    for name in ("Epilogue", "MatmulDescAttribute", "MatmulPreferenceAttribute"):
        members[name] = {kind.name: str(kind.value) for kind in getattr(binding, name)}
    types = {
        kind.name: np.dtype(binding.get_matmul_desc_attribute_dtype(kind)).name
        for kind in binding.MatmulDescAttribute
    }
    result = {"algorithm": str(binding.matmul_heuristic_result_dtype)}
    return {**members, "types": types, "result": result}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    answer = binding_of_cublaslt() if asked == "cublasLt" else plans(asked)
    print(json.dumps(answer))
