"""What a person sees while a jobset runs: the seed's lines, plain progress lines, or a bar."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Sequence

from workerbee.board import Board
from workerbee.events import Event
from workerbee.job import Charge, FailureGroup, Job, JobsetSummary, Kind, State
from workerbee.progress import Progress
from workerbee.terminal import Stream
from workerbee.text import printable, shown

log = logging.getLogger(__name__)

# Seconds between progress lines: a run of hours needs fewer of them.
FIRST_LINES_EVERY, LAST_LINES_EVERY = 5.0, 60.0
LINE_WIDTH = 160
# Failures told one by one: so many at once, then so many a second.
FAILURES_AT_ONCE, FAILURES_PER_SECOND = 20.0, 1.0


def told(event: Event) -> str:
    """A failure in one line."""
    count = f"({event.count} of {event.limit})"
    why = cause(event.kind, event.type, event.message)
    failed = "job FAILED" if event.state is State.FAILED else ""
    if event.kind is Kind.LOST:
        return f"job '{event.job_id}' was lost: {why} {count}, {failed or 'pending again'}"
    if event.kind is Kind.CRASH:
        end = f"with {why}" if event.type == "exit" else f"of {why}"
        return f"bee {event.slot} died {end} in job '{event.job_id}' {count}, {failed or 'started again'}"
    return f"job '{event.job_id}' failed: {why} {count}, {failed or 'tried again last'}"


def cause(kind: Kind | None, type: str, message: str) -> str:
    """Why an attempt failed, in words that say nothing twice."""
    if kind is Kind.ERROR:
        return f"{type}: {message}" if message else type
    return message.removeprefix("its bee died: ")


class Quiet:
    """Shows nothing of ours; what jobs print is theirs, and is passed on. What happens is logged instead."""

    def __init__(self) -> None:
        self._stdout, self._stderr = Stream("stdout"), Stream("stderr")

    def say(self, line: str) -> None:
        """Something about the run as a whole."""
        log.info("%s", printable(line))

    def happened(self, event: Event) -> None:
        """A failure was charged."""
        log.warning("%s", told(event))

    def started(self, _slot: int) -> None:
        """A bee was started: nothing to see."""

    def died(self, _slot: int, _code: int) -> None:
        """A bee died: its failure will be told."""

    def wrong(self, what: str, error: BaseException) -> None:
        """The caller's own code raised."""
        log.error("%s", what, exc_info=error)

    def refresh(self) -> float:
        """Show what has changed; the seconds until that is worth doing again."""
        return 60.0

    def out(self, line: str) -> None:
        """A line that a job printed to its stdout."""
        self._stdout.write(line + "\n")

    def err(self, line: str) -> None:
        """A line that a job printed to its stderr."""
        self._stderr.write(line + "\n")

    def watch(self, board: Board) -> None:
        """The bees of this `board` are about to start."""

    def close(self) -> None:
        """No more is to come of what was watched."""


class Flood:
    """Lets lines through while they are few, and counts the rest."""

    def __init__(self) -> None:
        self._allowed = FAILURES_AT_ONCE
        self._at = time.monotonic()
        self.held = 0

    @property
    def is_over(self) -> bool:
        """There is room for a line again."""
        now = time.monotonic()
        self._allowed = min(FAILURES_AT_ONCE, self._allowed + (now - self._at) * FAILURES_PER_SECOND)
        self._at = now
        return self._allowed >= 1

    def admits(self) -> bool:
        """Whether the next line may be shown; else it is counted as held back."""
        if self.is_over:
            self._allowed -= 1
            return True
        self.held += 1
        return False


class Lines(Quiet):
    """Plain lines: for a log, a pipe, a batch system's output file."""

    def __init__(self) -> None:
        super().__init__()
        self._flood = Flood()
        self._progress: Progress | None = None
        self._begun = self._next = 0.0

    def say(self, line: str) -> None:
        self._show(printable(line))

    def happened(self, event: Event) -> None:
        self._tell_held()
        if self._flood.admits():
            self._show(told(event), "red" if event.state is State.FAILED else "yellow")

    def wrong(self, what: str, error: BaseException) -> None:
        where = "".join(traceback.format_tb(error.__traceback__)[-1:]).strip().partition("\n")[0]
        self.say(f"{what}: {type(error).__name__}: {shown(error)}, {where}")

    def watch(self, board: Board) -> None:
        self._progress = Progress(board)
        self._begun = time.monotonic()
        self._next = self._begun + FIRST_LINES_EVERY

    def refresh(self) -> float:
        if self._progress is None:
            return LAST_LINES_EVERY
        self._tell_held()
        self._progress.rate()
        now = time.monotonic()
        if now >= self._next:
            self._next = now + min(LAST_LINES_EVERY, max(FIRST_LINES_EVERY, (now - self._begun) / 60))
            counts = [self._progress.percent + ": " + self._progress.status(), self._progress.left()]
            longest = self._progress.longest(LINE_WIDTH)
            self._show("; ".join(filter(None, [", ".join(filter(None, counts)), longest])))
        return self._next - now

    def close(self) -> None:
        self._tell_held(at_once=True)

    def _tell_held(self, at_once: bool = False) -> None:
        if self._flood.held and (at_once or self._flood.is_over):
            held, self._flood.held = self._flood.held, 0
            self._show(f"and {held} more failed attempt{'s' * (held != 1)}")

    def _show(self, line: str, _style: str = "") -> None:
        self._stdout.write(line + "\n")


class Narrator(Lines):
    """One bee in the caller's process: each job in turn, its own output between its beginning and its end."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def claimed(self, job: Job) -> None:
        """The job starts now."""
        self._stdout.write(f"{self._count}: claimed {job.job_id!r}")
        self._count += 1

    def completed(self, _job: Job) -> None:
        """Its function returned."""
        self._stdout.write("...done.\n")

    def charged(self, charge: Charge) -> None:
        """Its attempt failed."""
        event = Event.of(None, charge)
        again = "job FAILED" if event.state is State.FAILED else "tried again last"
        why = cause(event.kind, event.type, event.message)
        self._stdout.write(f"...failed: {why} ({event.count} of {event.limit}), {again}.\n")


class Mute(Quiet):
    """One bee in the caller's process, and `verbose=False`."""

    def claimed(self, job: Job) -> None:
        """Nothing to see."""

    def completed(self, job: Job) -> None:
        """Nothing to see."""

    def charged(self, charge: Charge) -> None:
        """Logged."""
        self.happened(Event.of(None, charge))


def ended(summary: JobsetSummary, groups: Sequence[FailureGroup], most: int) -> list[str]:
    """The last lines of a run: failures by kind and message, and the totals.

    `groups` has one more than `most` when there are more.
    """
    lines = ["Failed attempts by cause:"] if groups else []
    for group in groups[:most]:
        why = printable(cause(group.kind, group.type, group.message), 160)
        lines.append(f"  {group.count:6} x {group.kind.value}: {why}, e.g. job '{printable(group.example, 100)}'")
    if len(groups) > most:
        lines.append("  and other causes")
    if groups:
        lines.append(f"Each with its stack: workerbee failures --full {summary.jobset_id}")
    lines.append(str(summary))
    if left := summary.total - summary.complete - summary.failed:
        goes_on = f"goes on with the {left} job{'s' * (left != 1)} left"
        # Started again as it was, it would stop at once.
        enough = "max_failures" in summary.stopped
        after = (
            f"A call with a higher limit, or after `workerbee retry {summary.jobset_id}`,"
            if enough
            else "The same call"
        )
        lines.append(f"{after} {goes_on}.")
    return lines
