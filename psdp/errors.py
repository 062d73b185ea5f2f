"""The errors a user can meet. Their text says expected, got, who, and what to try.

Nothing else lives here: an error that only a bug of ours can cause is an ``assert``.
"""


class PsdpError(Exception):
    """Root of every error that psdp raises on purpose; ``exit_code`` ends the job."""

    exit_code = 1


class StartRefused(PsdpError):
    """The ranks cannot start; rank 0 has said why, and all of them end with this status."""

    def __init__(self, status: int) -> None:
        super().__init__("the ranks cannot start")
        self.exit_code = status


class ConfigError(PsdpError):
    """A flag or a configuration file asks for something impossible or contradictory."""

    exit_code = 2


class NoDevice(ConfigError):
    """There is no GPU to be had here."""


class UnusableDevice(NoDevice):
    """There is a GPU, and it cannot be opened."""


class DeviceMemoryError(ConfigError):
    """A GPU has too little memory for what it was asked to hold."""


class DataError(PsdpError):
    """The corpus is missing, unreadable, too short, or not what the tokenizer can read."""

    exit_code = 3


class ProtocolError(PsdpError):
    """A peer sent a message that the protocol does not allow."""

    exit_code = 4


class PeerLost(PsdpError):
    """A rank that this one cannot go on without has died."""

    exit_code = 5


class RunEnded(PeerLost):
    """Who leads the run has ended it, with this exit status, and has said why."""

    def __init__(self, leader: int, status: int) -> None:
        super().__init__(f"rank {leader} has ended the run")
        self.exit_code = status


class RankFailed(PsdpError):
    """Another rank failed; the job ends with that rank's exit status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.exit_code = status


class CheckpointError(PsdpError):
    """A checkpoint is missing, damaged, of another run, or could not be written."""

    exit_code = 6


class NumericsError(PsdpError):
    """A gradient holds NaN or Inf."""

    exit_code = 7


class ReplayError(PsdpError):
    """A replayed run is not the one that was recorded, or there is no record."""

    exit_code = 8
