"""The board: memory that a node's processes share, with a slot for what each bee is doing.

A slot survives its bee. So when a bee dies, the keeper can read which job was running, and which outcomes the bee
had not yet written to the database. Each field has one writer at a time: the bee while it lives, then whoever
`Phase` says.
"""

from __future__ import annotations

import ctypes
import enum
import mmap
import os
from typing import Any

from workerbee.job import Counts
from workerbee.shared import NamelessFile
from workerbee.slot import Slot
from workerbee.text import fitting


class Order(enum.IntEnum):
    """What the node was told from outside; a later one may only be stricter."""

    NONE = 0
    DRAIN = 1  # claim no more, and end when the running jobs have
    NOW = 2  # give the running jobs back

    @classmethod
    def of(cls, stop: str | None) -> Order:
        """The order that the database has as `stop`."""
        return cls[stop.upper()] if stop else cls.NONE


class Header(ctypes.Structure):
    """What all of a node's processes need to know."""

    stop: int  # set by the supervisor, or with `refused` or `enough`: claim no more
    closing: int  # set by the supervisor: no bee is left, the keeper may end the node
    node: int  # its row in wb_nodes
    total: int  # the jobset's counts as the keeper last read them, at `counted` (monotonic seconds)
    pending: int
    claimed: int
    failed: int
    offered: int
    others: int
    failed_here: int  # what `Board.failed` was then
    most_failed: int  # set by the supervisor: when so many jobs of the jobset are FAILED, bees stop; 0: never
    enough: int  # set by a bee or the keeper: so many are, by the database's word, and that was the limit
    counted: float
    seen: float  # when the keeper was last at work
    away: float  # since when the keeper has had no database, in monotonic seconds; 0 while it has one
    hold: float  # set by the supervisor: bees claim nothing before this monotonic second
    order: int  # set by the keeper: an `Order`
    catches: int  # set by a bee in the caller's process: SIGTERM interrupts its job
    refused: int  # set by the keeper or a bee: the database refuses what no waiting will change
    _why: bytes  # the last that the database said against it
    _fields_ = [
        ("stop", ctypes.c_int64),
        ("closing", ctypes.c_int64),
        ("node", ctypes.c_int64),
        ("total", ctypes.c_int64),
        ("pending", ctypes.c_int64),
        ("claimed", ctypes.c_int64),
        ("failed", ctypes.c_int64),
        ("offered", ctypes.c_int64),
        ("others", ctypes.c_int64),
        ("failed_here", ctypes.c_int64),
        ("most_failed", ctypes.c_int64),
        ("enough", ctypes.c_int64),
        ("counted", ctypes.c_double),
        ("seen", ctypes.c_double),
        ("away", ctypes.c_double),
        ("hold", ctypes.c_double),
        ("order", ctypes.c_int64),
        ("catches", ctypes.c_int64),
        ("refused", ctypes.c_int64),
        ("_why", ctypes.c_char * 1024),
    ]

    @property
    def is_alone(self) -> bool:
        """Whether no other node could take what failed here; not before that is known."""
        return self.counted > 0 and not self.others

    def write_counts(self, counts: Counts, failed_here: int) -> None:
        """Say how the jobset stands, and what `Board.failed` was then."""
        self.total, self.pending, self.claimed = counts.total, counts.pending, counts.claimed
        # In this order: who reads between the two must not take failures here for those of others besides.
        self.failed_here, self.failed = failed_here, counts.failed
        self.offered, self.others = counts.offered, counts.others

    def write_why(self, text: str) -> None:
        self._why = fitting(text, 1023)

    def refuse(self, why: str) -> None:
        """Let the node end, since the database refuses it."""
        if not self.refused:
            self.write_why(why)
            self.refused = self.stop = 1

    def read_why(self) -> str:
        return self._why.decode("utf-8", "ignore")


class Board:
    """A header, a slot for each of `size` bees, and a file for each one's last stack.

    Goes to a child by fork, or pickled when one is spawned.
    """

    def __init__(self, size: int, file: NamelessFile | None = None, stacks: list[NamelessFile] | None = None):
        length = ctypes.sizeof(Header) + size * ctypes.sizeof(Slot)
        self._file = file or NamelessFile()
        os.truncate(self._file.fd, length)
        memory = mmap.mmap(self._file.fd, length)
        self.header = Header.from_buffer(memory)
        starts = range(ctypes.sizeof(Header), length, ctypes.sizeof(Slot))
        self.slots = [Slot.from_buffer(memory, start) for start in starts]
        self.stacks = stacks or [NamelessFile() for _ in range(size)]

    def __reduce__(self) -> tuple[Any, ...]:
        return Board, (len(self.slots), self._file, self.stacks)

    def close(self) -> None:
        """Let the descriptors go; the memory lives as long as someone maps it."""
        for file in (self._file, *self.stacks):
            file.close()

    @property
    def completed(self) -> int:
        return sum(slot.completed for slot in self.slots)

    @property
    def failed(self) -> int:
        return sum(slot.failed for slot in self.slots)

    @property
    def may_have_failed_enough(self) -> bool:
        """By those counted, and what has come here since; who fails at that moment may be in both."""
        header = self.header
        return 0 < header.most_failed <= header.failed + self.failed - header.failed_here

    def stop_if_enough(self, failed: int) -> None:
        """Let bees stop if as many jobs of the jobset are FAILED as may be; the supervisor then says why."""
        if failed >= self.header.most_failed:
            self.header.enough = failed
            self.header.stop = 1

    @property
    def strikes(self) -> int:
        return sum(slot.strikes for slot in self.slots)

    @property
    def slowest(self) -> float:
        """Seconds of the longest job that completed here."""
        return max(slot.slowest for slot in self.slots)

    @property
    def usual(self) -> float:
        """Seconds within which nearly every job has been through, in the slot where they take longest."""
        return max(slot.usual for slot in self.slots)

    @property
    def crashed(self) -> int:
        return sum(slot.crashed for slot in self.slots)
