"""What is on record of the faults: whom they concerned, and when. Times are monotonic seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass

EVERYBODY = 0


@dataclass
class Disturbance:
    """A fault that concerned the node `node`, a supervisor's process id, or EVERYBODY, in this time."""

    name: str
    node: int
    begin: float
    end: float = math.inf

    def touches(self, node: int, begin: float, end: float) -> bool:
        return self.node in (EVERYBODY, node) and self.begin <= end and self.end >= begin


@dataclass(frozen=True)
class Hit:
    """A SIGKILL of ours; `running` is the job that the board had for the bee, "" for none, None if nobody knows."""

    at: float
    pid: int
    node: int
    role: str
    running: str | None = None
