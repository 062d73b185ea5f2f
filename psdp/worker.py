"""``mpirun -n N python -m psdp.worker``: every rank of a job starts here.

``--help`` and a wrong command line need no MPI; it is loaded after the arguments are read, and
everything after the line to the launcher is open, which is to hear of a rank that cannot load it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from psdp.errors import ConfigError
from psdp.line import open_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run this rank to its end; return its exit status."""
    line = open_line(os.environ)
    from psdp.cli import given_settings

    given: dict[str, Any] = {}
    refused: ConfigError | None = None
    try:
        given = given_settings(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        refused = error
    try:
        from psdp.mpi_rank import live
    except ConfigError as error:
        print(f"psdp: {error}", file=sys.stderr)
        line.ended(error.exit_code)
        return error.exit_code
    return live(given, refused, line)


if __name__ == "__main__":
    sys.exit(main())
