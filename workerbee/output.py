"""What a bee prints, passed on line by line, so that lines of different bees never mix."""

from __future__ import annotations

import codecs
import contextlib
import os
from collections.abc import Callable
from multiprocessing.connection import Connection

PIECE = 65536  # bytes read at a time
LONGEST_LINE = 1 << 20  # bytes; a longer line is passed on in pieces


class Output:
    """The reading end of one bee's stdout or stderr; whole lines go to `write`, which gets them without newline."""

    def __init__(self, connection: Connection, write: Callable[[str], None]) -> None:
        self._connection = connection
        self._write = write
        self._rest = bytearray()
        # Between the pieces of a line it keeps a character that is not yet complete.
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        os.set_blocking(self.fd, False)

    @property
    def fd(self) -> int:
        return self._connection.fileno()

    def pass_on(self) -> bool:
        """Write the lines that have arrived; at most one piece, so that a chatty bee does not take over.

        False when no more can come: nobody has the other end open any more.
        """
        with contextlib.suppress(BlockingIOError):
            piece = os.read(self.fd, PIECE)
            self._take(piece)
            return bool(piece)
        return True

    def close(self) -> None:
        """The bee is dead: write what is left, a last line without its end included."""
        # What it wrote is in the pipe, which holds this much at most; a process that it left behind may go on
        # writing for ever.
        with contextlib.suppress(BlockingIOError):
            for _ in range(LONGEST_LINE // PIECE):
                if not (piece := os.read(self.fd, PIECE)):
                    break
                self._take(piece)
        if self._rest:
            self._write(self._decoder.decode(self._rest, True))
        self._connection.close()

    def _take(self, piece: bytes) -> None:
        self._rest += piece
        if b"\n" in piece:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                self._write(self._decoder.decode(line, True))
        if len(self._rest) >= LONGEST_LINE:
            self._write(self._decoder.decode(self._rest))
            self._rest.clear()
