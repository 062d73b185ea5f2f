"""``python -m psdp.launch.relay AGENT [options] HOST COMMAND``: what mpirun starts in place of ssh,
for each other host of a job that is to go on when it loses one.

Open MPI's launcher (PRRTE 3) ends the whole job when the connection of a host's daemon to it
closes, or the ssh that has started that daemon ends with a status; no option changes this. So the
daemon is started from here and connects to here, what both say is passed on, and mpirun's side
stays open when the daemon's is gone. The other ranks learn of the loss from MPI and psdp.launch.

AGENT is what mpirun would start itself, as its ``plm_ssh_agent`` says it: commands between colons,
of which the first that is there is taken; all in one word, %-encoded.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import unquote

_WHERE = re.compile(r"prte_hnp_uri\W[^;\s]*;tcp://([0-9.]+)[^:\s]*:(\d+)")
_BLOCK_BYTES = 1 << 16
_LOOK_UP_S = 1.0
_NOT_FOUND = 127


def agent_of(text: str) -> list[str]:
    """Return the words of the first of these agents that is there, or of the first."""
    agents = [words for words in map(str.split, text.split(":")) if words]
    found = next((words for words in agents if shutil.which(words[0])), agents[0])
    # mpirun, too, asks ssh for no windows.
    return [*found, "-x"] if os.path.basename(found[0]) == "ssh" else found


class Relay:
    """Between an mpirun and the daemon of one host.

    Args:
        address, port: where that mpirun listens.
    """

    def __init__(self, address: str, port: int) -> None:
        self._mpirun = address, port
        self._parent = os.getppid()
        self._changed = asyncio.Event()
        self._connected = self._over = False
        self._tasks: list[asyncio.Task[None]] = []
        self._daemons = 0
        """Connections whose other side is there."""

    async def run(self, agent: Sequence[str], arguments: Sequence[str]) -> int:
        """Start the daemon, and stay as long as mpirun is to believe that it is there; return the
        agent's exit status if it has not started it, else 0.

        Raises:
            OSError: there is no such agent.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._end)
        server = await asyncio.start_server(self._accept, "0.0.0.0", 0)
        here = server.sockets[0].getsockname()[1]
        child = await asyncio.create_subprocess_exec(
            *agent, *(_moved(word, self._mpirun[1], here) for word in arguments)
        )
        leaving = asyncio.ensure_future(child.wait())
        leaving.add_done_callback(lambda _: self._changed.set())
        while not self._over and os.getppid() == self._parent:
            if child.returncode is not None and not self._connected:
                return child.returncode if child.returncode >= 0 else 128 - child.returncode
            if child.returncode == 0 and not self._daemons:
                return 0  # in order: let mpirun see it
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _LOOK_UP_S)
        with suppress(ProcessLookupError):
            child.terminate()  # its daemon ends with its connection
        return 0

    def _accept(self, daemon: asyncio.StreamReader, to_daemon: asyncio.StreamWriter) -> None:
        self._connected = True
        self._daemons += 1
        self._tasks.append(asyncio.ensure_future(self._stand_between(daemon, to_daemon)))

    async def _stand_between(
        self, daemon: asyncio.StreamReader, to_daemon: asyncio.StreamWriter
    ) -> None:
        """Pass on what a daemon and mpirun say, until both are gone."""
        try:
            mpirun, to_mpirun = await asyncio.open_connection(*self._mpirun)
        except OSError:
            self._end()
            return
        listening = asyncio.ensure_future(_pass_on(mpirun, to_daemon))
        listening.add_done_callback(lambda _: self._end())
        await _pass_on(daemon, to_mpirun)
        to_daemon.close()
        self._daemons -= 1
        self._changed.set()
        await listening

    def _end(self) -> None:
        """The mpirun is gone, or wants no more of this."""
        self._over = True
        self._changed.set()


def _moved(word: str, port: int, to: int) -> str:
    """Return a word of a command with another port for mpirun's, and no other way to it."""
    word = re.sub(r";tcp6://[^;\"\s]*", "", word)
    return re.sub(rf"(tcp://[^:\s]+:){port}\b", rf"\g<1>{to}", word)


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Pass on what one side says until it is gone; where there is no other, it is dropped."""
    with suppress(OSError):
        while data := await source.read(_BLOCK_BYTES):
            if not sink.is_closing():
                sink.write(data)
                with suppress(OSError):
                    await sink.drain()


def main(argv: Sequence[str]) -> int:
    """Start the daemon of one host; return the exit status of that."""
    agent, arguments = agent_of(unquote(argv[0])), argv[1:]
    where = _WHERE.search(" ".join(arguments))
    try:
        if where is None:  # another version's way to say it: do without
            os.execvp(agent[0], [*agent, *arguments])
        return asyncio.run(Relay(where[1], int(where[2])).run(agent, arguments))
    except OSError as error:
        print(f"psdp.launch: {agent[0]} cannot be started: {error.strerror}", file=sys.stderr)
        return _NOT_FOUND


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
