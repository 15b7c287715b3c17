"""What a bee prints, passed on line by line, so that lines of different bees never mix."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from multiprocessing.connection import Connection

LONGEST_LINE = 65536  # bytes; a longer line is passed on in pieces


class Output:
    """The reading end of one bee's stdout or stderr; whole lines go to `write`, which gets them without newline."""

    def __init__(self, connection: Connection, write: Callable[[str], None]) -> None:
        self._connection = connection
        self._write = write
        self._rest = b""
        os.set_blocking(self.fd, False)

    @property
    def fd(self) -> int:
        return self._connection.fileno()

    def pass_on(self) -> None:
        """Write the lines that have arrived; at most one piece, so that a chatty bee does not take over."""
        with contextlib.suppress(BlockingIOError):
            self._rest += os.read(self.fd, LONGEST_LINE)
        *lines, self._rest = self._rest.split(b"\n")
        if len(self._rest) >= LONGEST_LINE:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._write(line.decode("utf-8", "replace"))

    def close(self) -> None:
        """The bee is dead: write what is left, a last line without its end included."""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.fd, LONGEST_LINE):
                self._rest += piece
        if self._rest:
            for line in self._rest.decode("utf-8", "replace").splitlines():
                self._write(line)
        self._connection.close()
