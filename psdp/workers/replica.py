"""A rank's copy of the model: two flat vectors, and the layers that are views of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from psdp.backend import Backend
from psdp.job import Job
from psdp.nn.profile import clock_of, profiled
from psdp.params import Array, Zeros
from psdp.records.profile import UNPROFILED, Profile, Spans
from psdp.task import Model
from psdp.wire import Encode


@dataclass
class _Part:
    """One server's part: its span of vectors (P,), that of its payload, what makes that, and how
    many items the last one has."""

    span: slice
    payload: slice
    encode: Encode
    items: int


class Replica:
    """The model of a rank that computes for one worker or for several, one after the other.

    Weights land in ``weights`` and the gradient leaves from ``gradient``, both (P,) on the host or,
    where vectors go from GPU to GPU, on the backend. The layers are views of these two where they
    can be: a GPU has its own two if these are on the host, and so has whoever computes while these
    two travel (``--overlap``); they are copied by :meth:`load` and :meth:`fetch`. Where the job's
    codec does not leave vectors as they are, ``gradient`` holds its items instead: of each server's
    part, one after the other. What is pushed for one of several workers leaves from a box of its
    own, since the next gradient is computed before it is answered.

    Args:
        zeros: makes ``outbox``, where servers on this host can see it.
        hosted: workers for which it computes.
        on_device: whether ``weights`` and ``gradient`` are in the memory of a GPU.

    Attributes:
        outbox: all boxes; of a single worker it is ``gradient``.
        own_weights, own_gradient: (P,) on the backend, what the layers are views of.
        fetch_s: seconds that gradients took from ``own_gradient`` to ``gradient``.
        own_pushed: on the backend, what :meth:`fetch` brings to ``gradient``: ``own_gradient``, or
            the codec's items, which nobody else writes.
        profile: takes note of what the layers cost, with ``--profile``.
    """

    def __init__(
        self,
        job: Job,
        backend: Backend,
        zeros: Zeros = np.zeros,
        *,
        hosted: int = 1,
        on_device: bool = False,
    ) -> None:
        config, size = job.config, job.table.size
        self.codec, self.backend = job.codec, backend
        self._whole = job.whole
        self.outbox: Array = zeros(job.boxes(hosted)[-1].stop, self.codec.item)
        self._boxes = [self.outbox[box.start : box.stop] for box in job.boxes(hosted)]
        self.gradient = self._boxes[0]
        if hosted > 1:
            apart = backend.zeros if on_device else np.zeros
            self.gradient = apart(self.gradient.size, dtype=self.codec.item)
        self._far = backend.name == "gpu" and not on_device
        self._apart = self._far or config.run.overlap
        self.own_weights = self.weights = backend.zeros(size)
        if self._apart:
            self.weights = np.zeros(size, config.run.dtype) if self._far else backend.zeros(size)
        self._encodes = not self.codec.as_it_is
        alike = not (self._apart or self._encodes)
        self.own_gradient = self.gradient if alike else backend.zeros(size)
        self.own_pushed = self.own_gradient
        if self._encodes:
            room = self.gradient.size
            self.own_pushed = (
                backend.empty(room, dtype=self.codec.item) if self._far else self.gradient
            )
        self._parts = [
            _Part(
                slice(shard.start, shard.stop),
                slice(payload.start, payload.stop),
                self.codec.encoder(len(shard), backend),
                len(payload),
            )
            for shard, payload in zip(job.shards, job.payloads, strict=True)
        ]
        self._copies_async = self._sent_off = False
        if self._far:
            backend.pin(self.weights)
            self._copies_async = backend.pin(self.gradient) and self.codec.by_element
        self.fetch_s = 0.0
        self.profile: Spans = UNPROFILED

        def build(backend: Backend) -> Model:
            return job.task.model(backend, self.own_weights, self.own_gradient)

        if config.run.profile:
            self.profile = profile = Profile(clock_of(backend))
            self.model = profiled(build, backend, profile)
        else:
            self.model = build(backend)

    def load(self) -> None:
        """New weights have landed: let the layers see them. Others may land on return."""
        if self._apart:
            bring = self.backend.to_device if self._far else self.backend.copy
            bring(self.weights, self.own_weights)
            self.backend.synchronize()

    def weights_on_host(self) -> Array:
        """Return ``weights`` as NumPy's: themselves, or a copy."""
        return self.weights if self._far else self.backend.on_host(self.weights)

    def unload(self) -> None:
        """Make ``weights`` what is in ``own_weights``; it is complete on return."""
        if self._apart:
            self.backend.to_host(self.own_weights, self.weights)

    def clear(self) -> None:
        """Set the gradient to zero, to be added to."""
        self.backend.clear(self.own_gradient)

    def take_loss(self) -> float:
        """Return the losses that were added up since this was last asked; it waits for the
        device."""
        loss = float(self.backend.on_host(self.model.loss)[0])
        self.backend.clear(self.model.loss)
        return loss

    def outlet(self) -> Callable[[slice], None] | None:
        """Return what brings parts of ``own_gradient`` to ``gradient`` while the layers go on, for
        the last pass before :meth:`fetch`; None where it is :meth:`fetch` that does."""
        self._sent_off = self._copies_async
        return self._copy_async if self._copies_async else None

    def _copy_async(self, span: slice) -> None:
        if self._encodes:  # by element, so any part's encoder does
            self._parts[0].encode(self.own_gradient[span], self.own_pushed[span])
        self.backend.to_host_async(self.own_pushed[span], self.gradient[span])

    def fetch(self) -> None:
        """Make ``gradient`` what is in ``own_gradient``, encoded; on the host it is complete on
        return, on a GPU once that was waited for."""
        if not (self._apart or self._encodes):
            return
        begin_s = time.monotonic()
        if self._sent_off:
            self.backend.synchronize()
        else:
            if self._encodes:
                with self.profile.span(self.codec.work):
                    for part in self._parts:
                        part.items = part.encode(
                            self.own_gradient[part.span], self.own_pushed[part.payload]
                        )
            if self.own_pushed is not self.gradient:
                bring = self.backend.to_host if self._far else self.backend.copy
                bring(self.own_pushed, self.gradient)
        self._sent_off = False
        self.fetch_s += time.monotonic() - begin_s

    def add_box(self) -> int:
        """Make a box for one more worker; return its number."""
        make = np.zeros if isinstance(self.gradient, np.ndarray) else self.backend.zeros
        if self._boxes[0] is self.gradient:
            self._boxes[0] = make(self.gradient.size, dtype=self.codec.item)
        self._boxes.append(make(self.gradient.size, dtype=self.codec.item))
        return len(self._boxes) - 1

    def payloads(self, box: int = 0) -> list[Array]:
        """Return what of ``gradient`` goes to each server, in one of the boxes."""
        source, out = self.gradient, self._boxes[box]
        if len(self._boxes) > 1:
            for part in self._parts:
                out[part.payload][: part.items] = source[part.payload][: part.items]
        return [out[part.payload][: part.items] for part in self._parts]

    def decoded(self) -> Array:
        """Return what servers take the last push for (P,), on the backend: ``own_gradient``, which
        that becomes."""
        if self._encodes:
            for part in self._parts:
                payload = self.own_pushed[part.payload][: part.items]
                own = self.own_gradient[part.span]
                self.codec.mean([payload], [1.0], own, self.backend)
        return self.own_gradient

    def sum_of_squares(self) -> float:
        """Return the sum of the squares of what servers take the last push for, with the bits that
        it has where they sum its parts; ``own_gradient`` is not needed any more."""
        pushed = self.own_pushed if self.codec.by_element else self.decoded()
        return math.fsum(self.backend.squares(pushed, self._whole))

    def put_back(self) -> None:
        """Make ``own_gradient`` what is in ``gradient``, which is as it was."""
        if self._apart:
            self.backend.to_device(self.gradient, self.own_gradient)
