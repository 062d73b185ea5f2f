"""Steps that all ranks take together, and what must be the same on all of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from psdp.config import flag_of
from psdp.errors import ConfigError, DataError, PsdpError
from psdp.transport.mpi import World

T = TypeVar("T")

PER_RANK = frozenset({"threads", "device", "kernels", "corpus"})
"""Settings that may differ between ranks: hosts may differ, and the corpus is compared by hash."""


# NumPy raises these as ValueError where a size is beyond any memory.
_TOO_BIG = ("array is too big", "Maximum allowed dimension")
_LOWER = "lower --n-layer, --n-embd, --block-size, --batch-size or --vocab-size"


def together(
    world: World, action: Callable[[], tuple[T, dict[str, Any]]]
) -> tuple[T, list[dict[str, Any]]]:
    """Do ``action`` on every rank; return its value here and its facts (JSON) of all ranks.

    Raises:
        SystemExit: it failed on some rank; rank 0 has said why.
    """
    try:
        value, facts = action()
        report: dict[str, Any] = {"facts": facts}
    except PsdpError as error:
        report = {"error": str(error), "code": error.exit_code}
    except (MemoryError, OverflowError, ValueError) as error:
        if isinstance(error, ValueError) and not str(error).startswith(_TOO_BIG):
            raise
        text = f"the settings ask for more memory than there is ({error}); {_LOWER}"
        report = {"error": text, "code": ConfigError.exit_code}
    reports = [json.loads(raw) for raw in world.exchange(json.dumps(report).encode())]
    failed = {rank: r for rank, r in enumerate(reports) if "error" in r}
    if failed:
        if world.rank == 0:
            for text in dict.fromkeys(r["error"] for r in failed.values()):
                ranks = [rank for rank, r in failed.items() if r["error"] == text]
                where = "" if len(ranks) == world.size else f"rank {', '.join(map(str, ranks))}: "
                print(f"psdp: {where}{text}", file=sys.stderr, flush=True)
        sys.exit(next(iter(failed.values()))["code"])
    return value, [r["facts"] for r in reports]


def same_settings(settings: Sequence[Mapping[str, Any]]) -> None:
    """
    Raises:
        ConfigError: a rank was started with other settings than rank 0.
    """
    for rank, other in enumerate(settings):
        for name, value in settings[0].items():
            if name not in PER_RANK and other[name] != value:
                raise ConfigError(
                    f"rank {rank} was started with {flag_of(name)} {other[name]}, rank 0 with "
                    f"{value}; start every rank with the same settings"
                )


def same_corpus(hashes: Sequence[str]) -> None:
    """
    Raises:
        DataError: a rank read other text than rank 0.
    """
    for rank, sha256 in enumerate(hashes):
        if sha256 != hashes[0]:
            raise DataError(
                f"rank {rank} read a corpus with sha256 {sha256[:16]}..., rank 0 one with "
                f"{hashes[0][:16]}...; give every host the same files (--corpus stdlib also "
                "depends on the Python version)"
            )
