"""The product C += A B of the BLAS library that is loaded, NumPy's, for compiled code to call.

NumPy offers C = A B alone. Adding on the way out saves a pass over every weight's gradient.
"""

from __future__ import annotations

import ctypes

from threadpoolctl import ThreadpoolController

BLAS = ThreadpoolController().select(user_api="blas")
"""All of them that are loaded: what they are, and how many threads they use."""

# NumPy's wheels rename the symbols of their OpenBLAS, whose integers have 64 bits.
_NAMES = ("scipy_cblas_sgemm64_", "cblas_sgemm64_", "scipy_cblas_sgemm", "cblas_sgemm")


def find_sgemm() -> int | None:
    """Return the address of ``cblas_sgemm``, or None where no BLAS that is loaded shows one."""
    for library in BLAS.info():
        loaded = ctypes.CDLL(library["filepath"])
        for name in _NAMES:
            if hasattr(loaded, name):
                return ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value
    return None
