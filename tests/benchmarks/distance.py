"""A database that is some milliseconds away: a relay before the server holds everything back for as long.

`python -m tests.benchmarks.distance FOLDER SERVER SECONDS` runs it alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.fresh import ROOT
from tests.benchmarks.server import Parameters

SOCKET = ".s.PGSQL.5432"


@contextlib.contextmanager
def far(parameters: Parameters, seconds: float) -> Iterator[Parameters]:
    """The parameters of the same database so many seconds away, there and back."""
    with tempfile.TemporaryDirectory(prefix="workerbee-far-") as folder:
        arguments = [folder, parameters["host"], str(seconds)]
        relay = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.distance", *arguments], cwd=ROOT)
        try:
            while not (Path(folder) / SOCKET).exists():
                assert relay.poll() is None, "the relay has ended"
                time.sleep(0.01)
            yield {**parameters, "host": folder}
        finally:
            relay.kill()
            relay.wait()


async def _relay(folder: str, server: str, seconds: float) -> None:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(f"{server}/{SOCKET}")
        await asyncio.gather(_pass_on(reader, back, seconds / 2), _pass_on(there, writer, seconds / 2))

    async with await asyncio.start_unix_server(connect, f"{folder}/{SOCKET}") as listener:
        await listener.serve_forever()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    later = asyncio.get_running_loop().call_later
    with contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            later(seconds, writer.write, piece)
    later(seconds, writer.close)


if __name__ == "__main__":
    asyncio.run(_relay(sys.argv[1], sys.argv[2], float(sys.argv[3])))
