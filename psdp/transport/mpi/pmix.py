"""What Open MPI hears of failed processes, said by a rank: by PMIx, the library under it.

Open MPI has no call by which a rank that is stopped or cut off is declared dead. Its handler of
PMIx's event for a process that has ended does not ask who has sent the event.
"""

from __future__ import annotations

import ctypes
import os

_ENDED, _ENDED_NAME = -200, b"PMIX_ERR_PROC_TERM_WO_SYNC"
_TYPE_OF_PROC, _RANGE_OF_JOB = 22, 3


class _Proc(ctypes.Structure):
    _fields_ = (("nspace", ctypes.c_char * 256), ("rank", ctypes.c_uint32))


class _Value(ctypes.Structure):
    _fields_ = (("type", ctypes.c_uint16), ("data", ctypes.c_uint64 * 3))


class _Info(ctypes.Structure):
    _fields_ = (("key", ctypes.c_char * 512), ("flags", ctypes.c_uint32), ("value", _Value))


def declare_dead(rank: int, by: int) -> bool:
    """Tell all ranks of this job that one of them is dead; return whether that can be.

    MPI's calls that name it fail from then on, and it ends itself as soon as it hears of it. Any
    thread may call this.

    Args:
        rank: in MPI_COMM_WORLD.
        by: the rank of this process.
    """
    try:
        library = ctypes.CDLL("libpmix.so.2")  # that MPI has loaded
    except OSError:
        return False
    library.PMIx_Error_string.restype = ctypes.c_char_p
    if library.PMIx_Error_string(_ENDED) != _ENDED_NAME:  # of another version than is known here
        return False
    job = os.environ.get("PMIX_NAMESPACE", "").encode()
    dead, source = _Proc(job, rank), _Proc(job, by)
    about = _Info(b"pmix.evproc")
    about.value.type = _TYPE_OF_PROC
    about.value.data[0] = ctypes.addressof(dead)
    scope = ctypes.c_uint8(_RANGE_OF_JOB)
    given = ctypes.byref(about), ctypes.c_size_t(1)
    return not library.PMIx_Notify_event(_ENDED, ctypes.byref(source), scope, *given, None, None)
