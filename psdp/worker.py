"""``mpirun -n N python -m psdp.worker``: every rank of a job starts here.

``--help`` and a wrong command line need no MPI; it is loaded after the arguments are read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from psdp.cli import given_settings
from psdp.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run this rank to its end; return its exit status."""
    given: dict[str, Any] = {}
    refused: ConfigError | None = None
    try:
        given = given_settings(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        refused = error
    try:
        from psdp.rank import live
    except ConfigError as error:
        print(f"psdp: {error}", file=sys.stderr)
        return error.exit_code
    return live(given, refused)


if __name__ == "__main__":
    sys.exit(main())
