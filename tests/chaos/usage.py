"""What a round takes: memory and descriptors of supervisors and keepers while they live, sizes of tables."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import psutil

from tests.chaos.fleet import Node

SETTLED = 3  # points after which a process has what it needs
EVERY = 1.0


@dataclass
class Course:
    """Of one process: seconds since its node's start, resident bytes, descriptors."""

    points: list[tuple[float, int, int]] = field(default_factory=list)

    def growth(self, column: int) -> float:
        """How much the second half has more than the first, on the median."""
        settled = [point[column] for point in self.points[SETTLED:]]
        if len(settled) < 6:
            return 0.0
        half = len(settled) // 2
        return statistics.median(settled[half:]) - statistics.median(settled[:half])

    def most(self, column: int) -> int:
        return int(max((point[column] for point in self.points), default=0))


class Usage:
    """The courses of supervisors and keepers, by role and process id."""

    def __init__(self) -> None:
        self.courses: dict[tuple[str, int], Course] = {}
        self._looked: dict[int, float] = {}

    def look_at(self, node: Node) -> None:
        """Take a point of the node's processes, if it is time to."""
        now = time.monotonic()
        # Before it has a board, it sets up.
        if now - self._looked.get(node.pid, 0.0) < EVERY or not node.glimpse.found():
            return
        self._looked[node.pid] = now
        role = "inline" if node.inline else "supervisor"
        for name, pid in ((role, node.pid), ("keeper", node.glimpse.keeper())):
            try:
                process = psutil.Process(pid) if pid else None
                if process:
                    point = (now - node.began, process.memory_info().rss, process.num_fds())
                    self.courses.setdefault((name, process.pid), Course()).points.append(point)
            except psutil.Error:
                continue

    def summary(self) -> dict[str, float]:
        """The most of each, and the most that any process grew within its life."""
        found: dict[str, float] = {}
        for role in ("supervisor", "keeper"):
            courses = [course for (name, _), course in self.courses.items() if name == role]
            found[f"{role} MB"] = max((course.most(1) for course in courses), default=0) / 1e6
            found[f"{role} MB grown"] = max((course.growth(1) for course in courses), default=0) / 1e6
            found[f"{role} fds"] = max((course.most(2) for course in courses), default=0)
            found[f"{role} fds grown"] = max((course.growth(2) for course in courses), default=0)
        return found
