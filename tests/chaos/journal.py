"""The journal: what jobs and the killer did, in a file outside the database, one JSON object per line.

Each line is one write in append mode, so lines of many processes never mix, and a kill leaves whole lines only.
Times are monotonic seconds, which all processes of a machine share.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RETURNED, RAISED, INTERRUPTED = "returned", "raised", "interrupted"


@dataclass
class Attempt:
    """One call of the job function; `ended` is None where the process did not get to say how."""

    job_id: str
    pid: int
    node: int  # its supervisor's process id
    began: float
    held_by: int = 0  # a process that was still in an attempt at the same job
    ended: float | None = None
    how: str | None = None


@dataclass(frozen=True)
class Identity:
    """A process for good: its id may be reused, with another time of birth."""

    pid: int
    born: int  # clock ticks since the machine started

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has this id now; None when there is none, or but a zombie."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        return None if fields[0] in (b"Z", b"X") else cls(pid, int(fields[19]))

    def lives(self) -> bool:
        """Whether it is still there, and more than a zombie."""
        return Identity.of(self.pid) == self


class Journal:
    """The journal at `path`; may be sent to other processes, and forked."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, what: str, **fields: Any) -> float:
        """Append a line about `what`; returns its time."""
        now = time.monotonic()
        line = json.dumps({"what": what, "t": now, **fields}).encode() + b"\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)
        return now

    def lines(self) -> Iterator[dict[str, Any]]:
        """All lines so far."""
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                yield json.loads(line)


def attempts_of(lines: list[dict[str, Any]]) -> list[Attempt]:
    """The attempts that `lines` tell of, in the order in which they began."""
    found: dict[str, Attempt] = {}
    for line in lines:
        if line["what"] == "start":
            found[line["attempt"]] = Attempt(line["job"], line["pid"], line["node"], line["t"], line["held_by"])
        elif line["what"] == "end":
            attempt = found[line["attempt"]]
            attempt.ended, attempt.how = line["t"], line["how"]
    return sorted(found.values(), key=lambda attempt: attempt.began)


def children_of(lines: list[dict[str, Any]]) -> dict[Identity, int]:
    """The processes that jobs left behind, each with its node's supervisor."""
    return {Identity(line["child"], line["born"]): line["node"] for line in lines if line["what"] == "child"}
