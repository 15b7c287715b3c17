"""What a person sees while a jobset runs: the seed's lines, plain progress lines, or a bar."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from workerbee.board import Board
from workerbee.events import Event
from workerbee.job import Charge, FailureGroup, Job, JobsetSummary, Kind, State
from workerbee.text import printable

log = logging.getLogger(__name__)

LINES_EVERY = 5.0  # seconds between progress lines
BAR_EVERY = 0.2
RATE_WINDOW = 20.0  # seconds that the shown rate is taken over
LONG = 2.0  # seconds from which a running job is worth naming


def told(event: Event) -> str:
    """A failure in one line."""
    again = "job FAILED" if event.state is State.FAILED else ""
    count = f"({event.count} of {event.limit})"
    if event.kind is Kind.CRASH:
        end = event.type if event.type != "exit" else event.message.removeprefix("its bee died: ")
        return f"bee {event.slot} died of {end} in job '{event.job_id}' {count}, {again or 'started again'}"
    if event.kind is Kind.LOST:
        return f"job '{event.job_id}' was lost: {event.message} {count}, {again or 'pending again'}"
    said = f"{event.type}: {event.message}" if event.message else event.type
    return f"job '{event.job_id}' failed: {said} {count}, {again or 'tried again last'}"


class Progress:
    """How far the jobset is, read from the board: no database is asked for it."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def total(self) -> int:
        return self._board.header.total

    @property
    def settled(self) -> int:
        """Jobs that are COMPLETE or FAILED."""
        header = self._board.header
        return header.total - header.pending - header.claimed

    def rate(self) -> float:
        """Jobs settled a second, lately, on all nodes."""
        at = self._board.header.counted
        if at and (not self._samples or self._samples[-1][0] != at):
            self._samples.append((at, self.settled))
        while len(self._samples) > 2 and self._samples[-1][0] - self._samples[0][0] > RATE_WINDOW:
            self._samples.popleft()
        if len(self._samples) < 2:
            return 0.0
        (then, before), (now, after) = self._samples[0], self._samples[-1]
        return max(0.0, (after - before) / (now - then))

    def words(self) -> str:
        """It all on one line."""
        header = self._board.header
        if not header.counted:
            return "starting"
        running = sum(slot.pos != 0 for slot in self._board.slots)
        rate = self.rate()
        left = header.pending + header.claimed
        parts = [f"{self.settled - header.failed} of {header.total} done", f"{header.failed} failed"]
        parts += [f"{running} running", f"{rate:.{0 if rate >= 10 else 1}f} jobs/s"]
        if rate and left:
            parts.append(f"{duration(left / rate)} left")
        return ", ".join(parts)

    def longest(self, most: int = 3) -> list[str]:
        """The jobs that have run longest, if for long."""
        now = time.monotonic()
        running = [(now - slot.started, slot.read_job_id()) for slot in self._board.slots if slot.pos]
        running = sorted((ran for ran in running if ran[0] > LONG), reverse=True)[:most]
        return [f"'{printable(job_id, 60)}' {duration(seconds)}" for seconds, job_id in running]


def duration(seconds: float) -> str:
    """Seconds as 12 s, 3:05 min or 2:03:05 h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02} h"
    return f"{minutes}:{rest:02} min" if minutes else f"{rest} s"


class Quiet:
    """Shows nothing of ours; what jobs print is theirs, and is passed on. What happens is logged."""

    def say(self, line: str) -> None:
        log.info(line)

    def happened(self, event: Event) -> None:
        log.warning(told(event))

    def refresh(self) -> float:
        """Show what has changed; the seconds until that is worth doing again."""
        return 60.0

    def out(self, line: str) -> None:
        """A line that a job printed to its stdout."""
        print(line, flush=True)

    def err(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def watch(self, board: Board) -> None:
        """The bees of this `board` are about to start."""

    def close(self) -> None:
        """No more is to come."""


class Lines(Quiet):
    """Plain lines: for a log, a pipe, a batch system's output file."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._next = 0.0

    def say(self, line: str) -> None:
        super().say(line)
        print(line, flush=True)

    def happened(self, event: Event) -> None:
        super().happened(event)
        print(told(event), flush=True)

    def watch(self, board: Board) -> None:
        self._progress = Progress(board)
        self._next = time.monotonic() + LINES_EVERY

    def refresh(self) -> float:
        if self._progress is None:
            return LINES_EVERY
        self._progress.rate()
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LINES_EVERY
            longest = self._progress.longest()
            print(self._progress.words() + (f"; longest: {', '.join(longest)}" if longest else ""), flush=True)
        return self._next - now


class Bar(Quiet):
    """A bar at the bottom of a terminal, and above it what happened and what jobs print."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._live: Live | None = None
        self._next = 0.0

    def say(self, line: str) -> None:
        super().say(line)
        self._console.print(Text(line))

    def happened(self, event: Event) -> None:
        super().happened(event)
        self._console.print(Text(told(event), style="red" if event.state is State.FAILED else "yellow"))

    def out(self, line: str) -> None:
        self._console.print(Text.from_ansi(line))

    def err(self, line: str) -> None:
        self.out(line)

    def watch(self, board: Board) -> None:
        self._progress = Progress(board)
        # No thread of rich's: the supervisor forks.
        self._live = Live(self._shown(self._progress), console=self._console, auto_refresh=False, transient=False)
        self._live.start(refresh=True)

    def refresh(self) -> float:
        now = time.monotonic()
        if self._live is not None and self._progress is not None and now >= self._next:
            self._next = now + BAR_EVERY
            self._live.update(self._shown(self._progress), refresh=True)
        return max(0.0, self._next - now)

    def close(self) -> None:
        if self._live is not None and self._progress is not None:
            self._live.update(self._shown(self._progress), refresh=True)
            self._live.stop()
            self._live = None

    def _shown(self, progress: Progress) -> Group:
        share = progress.settled / progress.total if progress.total else 0.0
        row = Table.grid(padding=(0, 1), expand=False)
        row.add_row(ProgressBar(total=1.0, completed=share, width=30), Text(f"{100 * share:.0f} %"))
        lines = [Text(progress.words(), overflow="ellipsis", no_wrap=True)]
        longest = progress.longest()
        if longest:
            lines.append(Text("longest: " + ", ".join(longest), style="dim", overflow="ellipsis", no_wrap=True))
        return Group(row, *lines)


class Narrator(Lines):
    """One bee in the caller's process: each job in turn, its own output between its beginning and its end."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def claimed(self, job: Job) -> None:
        print(f"{self._count}: claimed {job.job_id!r}", end="", flush=True)
        self._count += 1

    def completed(self, _job: Job) -> None:
        print("...done.", flush=True)

    def charged(self, charge: Charge) -> None:
        event = Event.of(None, charge)
        log.warning(told(event))
        said = f"{event.type}: {event.message}" if event.message else event.type
        again = "job FAILED" if charge.state is State.FAILED else "tried again last"
        print(f"...failed: {said} ({event.count} of {event.limit}), {again}.", flush=True)


class Mute(Quiet):
    """One bee in the caller's process, and `verbose=False`."""

    def claimed(self, job: Job) -> None:
        """Nothing to see."""

    def completed(self, job: Job) -> None:
        """Nothing to see."""

    def charged(self, charge: Charge) -> None:
        log.warning(told(Event.of(None, charge)))


def failures_told(groups: Sequence[FailureGroup], most: int) -> list[str]:
    """The failures of a jobset, a line per kind and message; `groups` has one more than `most` when there are more."""
    if not groups:
        return []
    lines = ["Failed attempts by cause:"]
    for group in groups[:most]:
        said = printable(f"{group.type}: {group.message}" if group.message else group.type, 160)
        lines.append(f"  {group.count:6} x {group.kind.value}: {said}, e.g. job '{printable(group.example, 100)}'")
    if len(groups) > most:
        lines.append("  and other causes")
    lines.append("Each attempt with its stack is a row of the table wb_failures.")
    return lines


def ended(summary: JobsetSummary, groups: Sequence[FailureGroup], most: int) -> list[str]:
    """The last lines of a run."""
    return [*failures_told(groups, most), str(summary)]
