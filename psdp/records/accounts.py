"""What a rank is told that is to go on with the records of another, beside the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from psdp.records.folder import RunFolder
from psdp.records.metrics import Histogram, Interval, StepTimes


class Accounts:
    """What is known of a run that its records do not say yet; part of a recorder."""

    _folder: RunFolder
    _now: Callable[[], float]
    _start_s: float
    _start_version: int
    _start_units: int
    _interval: Interval
    _lags: Histogram
    _lr: float
    _norm: float
    _clocks: dict[int, int]
    step_times: StepTimes

    def account(self) -> dict[str, Any]:
        """Return what another rank needs to go on with these records, beside the records
        themselves."""
        interval, now = self._interval, self._now()
        return {
            "since_start_s": now - self._start_s,
            "start": [self._start_version, self._start_units],
            "since_record_s": now - interval.since_s,
            "interval": [interval.units, interval.updates, interval.loss_sum, interval.counted],
            "interval_lags": list(interval.lags.counts.items()),
            "lags": list(self._lags.counts.items()),
            "last": [self._lr, self._norm, list(self._clocks.items())],
            "step_times": self.step_times.account(),
            "token": self._folder.token,
        }

    def go_on(self, account: Mapping[str, Any]) -> None:
        """Go on where another rank's :meth:`account` ends."""
        now, since_s = self._now(), account["since_record_s"]
        self._start_s = now - account["since_start_s"]
        self._start_version, self._start_units = account["start"]
        lags = Histogram(Counter(dict(account["interval_lags"])))
        units, updates, loss_sum, counted = account["interval"]
        self._interval = Interval(now - since_s, units, updates, loss_sum, counted, lags)
        self._lags = Histogram(Counter(dict(account["lags"])))
        self._lr, self._norm, clocks = account["last"]
        self._clocks = dict(clocks)
        self.step_times.go_on(account["step_times"])
