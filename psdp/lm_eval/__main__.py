"""``python -m psdp.lm_eval --model psdp --model_args checkpoint=...``: the command line of
lm-evaluation-harness."""

from __future__ import annotations

import sys

from psdp.data.extra import needed
from psdp.errors import PsdpError


def main() -> int:
    """Run it; return the exit status."""
    try:
        harness = needed("lm_eval.__main__", "this is lm-evaluation-harness", extra="lm-eval")
        import psdp.lm_eval.model  # noqa: F401 (which makes psdp's models known there)

        harness.cli_evaluate()
    except PsdpError as error:
        print(f"psdp: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
