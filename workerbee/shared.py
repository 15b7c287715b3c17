"""Files without a name that a process shares with its children, forked or spawned."""

from __future__ import annotations

import os
import sys
import tempfile
from multiprocessing import reduction
from typing import Any


class NamelessFile:
    """A file in no file system, so that nothing is left behind when everything is killed at once.

    Forked children inherit it; pickled while a child is spawned, it goes along.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            if sys.platform == "linux":
                fd = os.memfd_create("workerbee")
            else:
                with tempfile.TemporaryFile() as file:
                    fd = os.dup(file.fileno())
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (reduction.DupFd(self.fd),)

    def empty(self) -> None:
        """Start anew, for all who share it: they share the position, too."""
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)

    def size(self) -> int:
        """Bytes written so far."""
        return os.fstat(self.fd).st_size

    def tail(self, limit: int) -> str:
        """The last `limit` bytes, as text."""
        return os.pread(self.fd, limit, max(0, self.size() - limit)).decode("utf-8", "replace")

    def close(self) -> None:
        os.close(self.fd)


def _reopen(fd: Any) -> NamelessFile:
    return NamelessFile(fd.detach())
