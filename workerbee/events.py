"""What a node's processes tell their supervisor, for people to read; nothing depends on its arriving."""

from __future__ import annotations

import contextlib
import json
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from workerbee.job import Charge, Kind, State
from workerbee.text import printable, shortened

PIECE = 65536  # bytes read at a time: all that a pipe holds


@dataclass(frozen=True)
class Event:
    """A failure that was charged, or with empty fields the bare news that the board changed.

    `slot` is the bee's, or None when the job's node is lost.
    """

    slot: int | None = None
    job_id: str = ""
    kind: Kind | None = None
    type: str = ""
    message: str = ""
    count: int = 0
    limit: int = 0
    state: State | None = None

    @classmethod
    def of(cls, slot: int | None, charge: Charge) -> Event:
        """The news of a charge, cut to what fits."""
        failure = charge.failure
        return cls(
            slot,
            printable(charge.job_id, 100),
            failure.kind,
            printable(failure.type, 100),
            printable(failure.message, 200),
            charge.count,
            charge.limit,
            charge.state,
        )

    def shorter(self) -> Event:
        """The same in at most a few hundred bytes."""
        job_id, type, message = (shortened(text, 24) for text in (self.job_id, self.type, self.message))
        return replace(self, job_id=job_id, type=type, message=message)


class Sender:
    """The end that children write to. Sending never blocks: when the supervisor is behind, the news is dropped."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pipe = _identity(connection)

    def send(self, event: Event) -> None:
        # Up to PIPE_BUF a write is whole or not at all, so that many may share the pipe. Some systems have 512 bytes
        # there, and need fewer words.
        for line in map(_packed, (event, event.shorter(), Event())):
            if len(line) <= select.PIPE_BUF:
                with contextlib.suppress(OSError):
                    # A job may have closed all descriptors, and opened a file of its own that got this number.
                    if _identity(self._connection) == self._pipe:
                        os.write(self._connection.fileno(), line)
                return


def _identity(connection: Connection) -> tuple[int, int]:
    status = os.fstat(connection.fileno())
    return status.st_dev, status.st_ino


def _packed(event: Event) -> bytes:
    fields = {name: value for name, value in vars(event).items() if value not in (None, "", 0) or name == "slot"}
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def _unpacked(line: bytes) -> Event:
    fields = json.loads(line)
    kind, state = fields.pop("kind", None), fields.pop("state", None)
    return Event(kind=kind and Kind(kind), state=state and State(state), **fields)


class Receiver:
    """The supervisor's end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rest = b""
        os.set_blocking(self.fd, False)

    @property
    def fd(self) -> int:
        return self._connection.fileno()

    def receive(self) -> Iterator[Event]:
        """The events that have arrived."""
        with contextlib.suppress(BlockingIOError):
            self._rest += os.read(self.fd, PIECE)
        *lines, self._rest = self._rest.split(b"\n")
        self._rest = self._rest[:PIECE]
        for line in lines:
            # A job may have written here by mistake, to a descriptor number that it thought was still its own.
            with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
                yield _unpacked(line)

    def close(self) -> None:
        self._connection.close()
