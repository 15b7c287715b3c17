"""Writing to stdout and stderr so that no run ends for it, and lines that do a terminal no harm."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys

_CONTROL = re.compile(
    r"(?P<style>\x1b\[[\d;:]*m)"
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # moves the cursor, clears, switches modes
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # window titles, links
    # The last ones turn text around, or end lines elsewhere.
    r"|(?P<other>[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069])"
)


class Stream:
    """`sys.stdout` or `sys.stderr`, whatever that is at the time; a run goes on when it cannot be written."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def is_terminal(self) -> bool:
        """People look at it, and it understands more than plain lines."""
        try:
            terminal = bool(getattr(sys, self._name).isatty())
        except (AttributeError, ValueError):  # there is none, or it is closed
            return False
        return terminal and os.environ.get("TERM", "") not in ("", "dumb", "unknown")

    def write(self, text: str) -> None:
        """Write `text` and flush; characters that the stream's encoding lacks are escaped."""
        stream = getattr(sys, self._name)
        if stream is None:
            return
        try:
            try:
                stream.write(text)
            except UnicodeEncodeError as error:
                stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
            stream.flush()
        except (OSError, ValueError) as error:
            # A full disk, a stream the caller has closed: the jobs matter more.
            if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.EIO):
                self._forget()

    def _forget(self) -> None:
        # Its reader is gone (`| head -1`), or its terminal. What was buffered would be tried again and again, by
        # others, too, and fail once more when the interpreter exits.
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, getattr(sys, self._name).fileno())
            os.close(null)
        if self._name == "stdout":
            Stream("stderr").write("workerbee: nobody reads stdout any more; the run goes on without it\n")


def harmless(line: str) -> str:
    """A line of a job's output without what would disturb the rest of a terminal; its colours stay.

    Of text that is overwritten after a carriage return, as progress bars do it, the last is kept.
    """
    line = line.rstrip("\r").rpartition("\r")[2]
    if line.isprintable():
        return line
    return _CONTROL.sub(_harmless, line) + ("\x1b[m" if "\x1b[" in line else "")


def _harmless(found: re.Match[str]) -> str:
    if other := found["other"]:
        return other.encode("unicode_escape").decode("ascii")
    return found["style"] or ""
