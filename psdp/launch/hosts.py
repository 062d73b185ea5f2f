"""The hosts of a job: whether there may be others, and where they reach this one."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress

_ALLOCATIONS = ("SLURM_JOB_ID", "PBS_NODEFILE", "LSB_HOSTS", "PE_HOSTFILE", "FLUX_JOB_ID")
"""Variables of batch systems, whose hosts an mpirun takes without a hostfile."""

_SIOCGIFADDR = 0x8915
"""Of Linux; other systems refuse it, or tell what is no address."""


def may_be_elsewhere(hostfile: str | None, environment: Mapping[str, str]) -> bool:
    """Say whether an mpirun may start ranks on other hosts."""
    return hostfile is not None or any(name in environment for name in _ALLOCATIONS)


def addresses() -> list[str]:
    """Return the IPv4 addresses of this host, that of itself alone last."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            found += _address_of(probe, name)
    if not found:
        with suppress(OSError):
            found = socket.gethostbyname_ex(socket.gethostname())[2]
    own = [address for address in found if address.startswith("127.")]
    return [*(address for address in found if address not in own), *(own or ["127.0.0.1"])]


def _address_of(probe: socket.socket, interface: str) -> list[str]:
    """Return the address of a network interface, where it has one and this system tells it."""
    try:
        from fcntl import ioctl

        request = struct.pack("256s", os.fsencode(interface)[:15])
        return [socket.inet_ntoa(ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24])]
    except OSError:
        return []
