"""How far a jobset is, in numbers and words, read from the board: no database is asked for it."""

from __future__ import annotations

import time
from collections import deque

from workerbee.board import Board
from workerbee.slot import Phase
from workerbee.text import shortened

# The rate is taken over the last seconds, or over as many more as it took to settle a few jobs: long jobs would
# otherwise show no rate at all, and then a burst.
RATE_WINDOW = 20.0
RATE_JOBS = 20
LONG = 2.0  # seconds from which a running job is worth naming


class Progress:
    """The jobset of `board`, as its keeper last counted it, and the jobs of the node's own bees."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._header = board.header
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def settled(self) -> int:
        """Jobs that are COMPLETE or FAILED."""
        return self._header.total - self._header.pending - self._header.claimed

    @property
    def share(self) -> float:
        """`settled` as a part of 1."""
        return self.settled / self._header.total if self._header.total else 0.0

    @property
    def percent(self) -> str:
        """100 % only when all is settled."""
        return f"{int(100 * self.share)} %"

    def rate(self) -> float:
        """Jobs settled a second, lately, on all nodes; to be asked for again and again, as the counts come in."""
        at, settled = self._header.counted, self.settled
        samples = self._samples
        if at and (not samples or samples[-1][1] != settled):
            samples.append((at, settled))
        while len(samples) > 2 and at - samples[1][0] >= RATE_WINDOW and settled - samples[1][1] >= RATE_JOBS:
            samples.popleft()
        if not samples or at <= samples[0][0]:
            return 0.0
        return max(0.0, (settled - samples[0][1]) / (at - samples[0][0]))

    def status(self) -> str:
        """The counts in one line."""
        header = self._header
        if not header.counted:
            return "starting"
        running = sum(slot.phase is Phase.ALIVE and slot.is_running for slot in self._board.slots)
        done = f"{self.settled - header.failed} of {header.total} done"
        lately = f"no database for {duration(time.monotonic() - header.away)}" if header.away else pace(self.rate())
        return f"{done}, {header.failed} failed, {running} running, {lately}"

    def left(self) -> str:
        """The time until the end if all goes on as lately, while that can be told."""
        header, rate = self._header, self.rate()
        # How long the last jobs take is their own affair: others' pace says nothing of them.
        if not rate or not header.pending or header.stop or header.away:
            return ""
        return f"about {duration((header.pending + header.claimed) / rate)} left"

    def longest(self, width: int) -> str:
        """The jobs that have run longest, if for long, in `width` characters."""
        now = time.monotonic()
        slots = [slot for slot in self._board.slots if slot.phase is Phase.ALIVE and slot.is_running]
        running = [(now - slot.started, slot.read_job_id()) for slot in slots]
        running = sorted((ran for ran in running if ran[0] > LONG), reverse=True)[: min(3, max(1, width // 35))]
        if not running:
            return ""
        ages = [duration(seconds) for seconds, _ in running]
        fixed = len("longest: ") + sum(len(f"'' {age}, ") for age in ages)
        room = max(8, (width - fixed) // len(ages))
        jobs = [f"'{shortened(job_id, room)}' {age}" for (_, job_id), age in zip(running, ages, strict=True)]
        return "longest: " + ", ".join(jobs)


def duration(seconds: float) -> str:
    """Seconds as 12 s, 3:05 min or 2:03:05 h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02} h"
    return f"{minutes}:{rest:02} min" if minutes else f"{rest} s"


def pace(rate: float) -> str:
    """Jobs a second as 250 jobs/s or 2.5 jobs/s; slow ones by the minute or hour."""
    for often, unit in ((rate, "s"), (rate * 60, "min"), (rate * 3600, "h")):
        if often >= 1:
            return f"{often:.{0 if often >= 10 else 1}f} jobs/{unit}"
    return "0 jobs/s"
