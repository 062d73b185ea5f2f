"""One table of parameters: names, shapes, the span of each in the flat vector, and shards.

Sizes, views, the decay boundary, shard ranges and the checkpoint index all derive from
:class:`ParamTable`. No layer, optimizer or server keeps a second list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from psdp.errors import ConfigError

Array = npt.NDArray[Any]
"""NumPy's, or what a device has for it; the one name of the type in psdp."""

Zeros = Callable[[int, npt.DTypeLike], Array]
"""Returns a new vector of so many zeros, in memory of its own choice; ``np.zeros`` is one."""
_LARGEST_BLOCK = 8 * 1024
InitKind = Literal["zeros", "ones", "normal", "uniform"]


@dataclass(frozen=True)
class Init:
    """How a parameter starts: ``scale`` is the std of ``normal``, the half-width of ``uniform``."""

    kind: InitKind
    scale: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(InitKind):
            raise ConfigError(f"Init is one of {', '.join(get_args(InitKind))}, got {self.kind!r}")


@dataclass(frozen=True)
class ParamSpec:
    """One named parameter.

    Attributes:
        decay: whether weight decay and l1 act on it, as they do on matrices.
        embedding: whether its rows are vectors of their own, looked up or compared one by one, so
            that it is no matrix of a linear map.
        maps: columns of each linear map, where several lie side by side in a matrix.
    """

    name: str
    shape: tuple[int, ...]
    init: Init = Init("zeros")
    decay: bool = False
    embedding: bool = False
    maps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple) or not all(isinstance(n, int) for n in self.shape):
            raise ConfigError(
                f"parameter '{self.name}': expected a shape such as (3, 4) or (5,), got "
                f"{self.shape!r}"
            )

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def matrix(self) -> bool:
        """Whether it is the matrix of a linear map."""
        return len(self.shape) == 2 and not self.embedding


NeedsWhole = Callable[[ParamSpec], bool]
"""Says of which parameters an update needs all elements at once."""


@dataclass(frozen=True)
class Piece:
    """What of a parameter lies in a part of the flat vector: its elements from ``first`` on, in
    ``span`` of the part."""

    spec: ParamSpec
    first: int
    span: slice


@dataclass(frozen=True)
class Part:
    """A contiguous part of the flat vector, as update rules see it.

    Attributes:
        span: of the flat vector.
        decayed_size: how many elements weight decay acts on; they lie in front.
        pieces: of every parameter that has elements here, in their order.
        runs: spans of the part that cover it. Sums over it are made in blocks of ``block_size``
            from the beginning of each run on, the last one shorter.
    """

    span: range
    decayed_size: int
    pieces: tuple[Piece, ...] = ()
    runs: tuple[slice, ...] = ()
    block_size: int = 1

    @property
    def size(self) -> int:
        return len(self.span)


class _Run(NamedTuple):
    """A span of the flat vector, and whether a part may end within."""

    span: range
    cuttable: bool


class ParamTable:
    """Every parameter's span in the flat vector, decayed ones first.

    Because the decayed parameters lie in front, one number (:attr:`decayed_size`) is the whole
    decay mask and an optimizer makes two long passes instead of many short ones.
    """

    def __init__(self, specs: Iterable[ParamSpec]) -> None:
        self.specs = tuple(sorted(specs, key=lambda spec: not spec.decay))
        for spec, before in pairwise(sorted(self.specs, key=lambda spec: spec.name)):
            if spec.name == before.name:
                raise ConfigError(f"two parameters have the name '{spec.name}'; name each once")
        self.offsets: dict[str, int] = {}
        end = 0
        for spec in self.specs:
            self.offsets[spec.name] = end
            end += spec.size
        self.size = end
        self.decayed_size = sum(spec.size for spec in self.specs if spec.decay)

    def views(self, flat: Any) -> dict[str, Any]:
        """Map each name to its view of ``flat`` (P,), of NumPy or CuPy."""
        assert flat.shape == (self.size,)
        return {
            spec.name: flat[self.offsets[spec.name] :][: spec.size].reshape(spec.shape)
            for spec in self.specs
        }

    def matrices_under(self, prefix: str) -> slice:
        """Return the span of the decayed parameters whose names begin so; they lie side by side.

        The others of that name are behind all decayed ones.
        """
        specs = [spec for spec in self.specs if spec.decay and spec.name.startswith(prefix)]
        start = self.offsets[specs[0].name]
        stop = start + sum(spec.size for spec in specs)
        assert self.offsets[specs[-1].name] + specs[-1].size == stop, f"{prefix} is in pieces"
        return slice(start, stop)

    @property
    def block_size(self) -> int:
        """Of the blocks in which sums over the vector are made: a power of two, a 128th of it at
        most, but no more than keeps a sum in its own precision good."""
        return 1 << max(0, min(_LARGEST_BLOCK, self.size // 128).bit_length() - 1)

    def parts(self, count: int, needs_whole: NeedsWhole = lambda _: False) -> list[Part]:
        """Cut the flat vector into contiguous parts of about the same size.

        They end where a block does, and within no parameter that an update needs whole: at the
        nearest such place. So sizes are off by less than a block or the largest such parameter,
        whichever is larger.
        """
        runs = list(self._runs(needs_whole))
        ends = [self._end_near(self.size * k / count, runs) for k in range(count + 1)]
        return [self._part(range(*span), runs) for span in pairwise(ends)]

    def _runs(self, needs_whole: NeedsWhole) -> Iterator[_Run]:
        """Yield the parameters that are needed whole, and what lies between them."""
        start = 0
        for spec in self.specs:
            if needs_whole(spec):
                offset = self.offsets[spec.name]
                yield from (_Run(range(start, offset), True),) if start < offset else ()
                yield _Run(range(offset, offset + spec.size), False)
                start = offset + spec.size
        yield _Run(range(start, self.size), True)

    def _end_near(self, ideal: float, runs: Sequence[_Run]) -> int:
        """Return the place nearest to this one where a part may end."""
        run = next(run for run in runs if ideal <= run.span.stop)
        step = self.block_size if run.cuttable else len(run.span)
        start, stop = run.span.start, run.span.stop
        before = start + int((ideal - start) // step) * step if step else start
        return min((before, min(before + step, stop)), key=lambda end: abs(end - ideal))

    def _part(self, span: range, runs: Iterable[_Run]) -> Part:
        pieces = []
        for spec in self.specs:
            offset = self.offsets[spec.name]
            start, stop = max(offset, span.start), min(offset + spec.size, span.stop)
            if start < stop:
                within = slice(start - span.start, stop - span.start)
                pieces.append(Piece(spec, start - offset, within))
        decayed_size = min(max(self.decayed_size - span.start, 0), len(span))
        cut = ((max(run.span.start, span.start), min(run.span.stop, span.stop)) for run in runs)
        own = (slice(a - span.start, b - span.start) for a, b in cut if a < b)
        return Part(span, decayed_size, tuple(pieces), tuple(own), self.block_size)

    def initial(self, seed: int, dtype: npt.DTypeLike) -> Array:
        """Return fresh weights (P,). Each parameter has its own stream, so the values depend
        on the seed and the parameter's index alone, on every rank alike."""
        flat: Array = np.empty(self.size, dtype)
        for index, view in enumerate(self.views(flat).values()):
            init = self.specs[index].init
            rng = np.random.default_rng([seed, index])
            match init.kind:
                case "zeros":
                    view[...] = 0
                case "ones":
                    view[...] = 1
                case "normal":
                    view[...] = init.scale * rng.standard_normal(view.shape)
                case "uniform":
                    view[...] = rng.uniform(-init.scale, init.scale, view.shape)
        return flat

    def index(self) -> list[dict[str, Any]]:
        """Describe the flat vector for a checkpoint: name, shape and offset of each parameter."""
        return [
            {"name": spec.name, "shape": list(spec.shape), "offset": self.offsets[spec.name]}
            for spec in self.specs
        ]

    def same_layout(self, index: Iterable[Mapping[str, Any]]) -> bool:
        """Say whether a checkpoint's index describes exactly this table."""
        return list(index) == self.index()
