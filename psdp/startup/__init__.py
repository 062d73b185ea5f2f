"""Before the first message: all ranks agree on the settings, the task and the run folder.

Every step is taken by all ranks together. An error on any of them ends all of them, told once.
"""

from psdp.startup.prepare import prepare
from psdp.startup.ready import Ready, Waiting

__all__ = ["Ready", "Waiting", "prepare"]
