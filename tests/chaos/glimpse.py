"""A glimpse of a running node from outside: its board, and which of its processes is what."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import psutil

from workerbee.board import Header
from workerbee.slot import Phase, Slot


class Glimpse:
    """Reads the board of the node whose supervisor is `pid`, with a slot for each of `size` bees."""

    def __init__(self, pid: int, size: int) -> None:
        self._pid = pid
        self._size = size
        self._length = ctypes.sizeof(Header) + size * ctypes.sizeof(Slot)
        self._memory: mmap.mmap | None = None

    def found(self) -> bool:
        """Whether the node has a board by now."""
        if self._memory is None:
            self._memory = self._find()
        return self._memory is not None

    def _find(self) -> mmap.mmap | None:
        try:
            for link in Path(f"/proc/{self._pid}/fd").iterdir():
                if str(link.readlink()) == "/memfd:workerbee (deleted)" and link.stat().st_size == self._length:
                    with link.open("rb") as file:
                        return mmap.mmap(file.fileno(), self._length, access=mmap.ACCESS_READ)
        except OSError:
            pass  # it is gone, or still being born
        return None

    def header(self) -> Header:
        assert self._memory
        return Header.from_buffer_copy(self._memory[: ctypes.sizeof(Header)])

    def slots(self) -> list[Slot]:
        assert self._memory
        starts = range(ctypes.sizeof(Header), self._length, ctypes.sizeof(Slot))
        return [Slot.from_buffer_copy(self._memory[start : start + ctypes.sizeof(Slot)]) for start in starts]

    def bees(self) -> list[int]:
        """The process ids of its bees."""
        return [slot.pid for slot in self.slots() if slot.phase is Phase.ALIVE and slot.pid] if self.found() else []

    def running(self, bee: int) -> str | None:
        """The job whose function has not yet returned in the process `bee`, which is suspended; "" for none.

        None when the board does not know the process.
        """
        for slot in self.slots():
            if slot.pid == bee and slot.phase is Phase.ALIVE:
                return slot.read_job_id() if slot.is_running else ""
        return None

    def keeper(self) -> int | None:
        """The keeper's process id."""
        try:
            below = psutil.Process(self._pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return None
        for process in below:
            try:
                if next(iter(process.cmdline()), "").endswith(" keeper"):
                    return process.pid
            except psutil.Error:
                continue
        return None
