"""`on_event`: what happens on a node, told to the caller's own callable."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from workerbee.board import Board
from workerbee.display import Mute, Narrator, Quiet
from workerbee.events import Event
from workerbee.job import Charge, Job, Kind, State
from workerbee.slot import Phase

What = Literal[
    "claimed", "complete", "failed", "lost", "bee started", "bee died", "stopping", "database away", "database back"
]
LOOK_EVERY = 0.5  # seconds between looks at the board


@dataclass(frozen=True)
class NodeEvent:
    """Something that happened on this node, `at` seconds of the epoch.

    claimed         the bee in slot `bee` runs `job_id`: every job, where one runs in this process; else a sample of
                    those that take less than half a second
    complete        `count` jobs have become COMPLETE here since the last such event
    failed          an attempt of `job_id` failed, by `kind`, `type` and `message`; `count` of `limit` such attempts,
                    and with `final` the job is FAILED
    lost            the same for a job whose node is lost; this one found that out
    bee started     in slot `bee`
    bee died        the one in slot `bee`, with exit code `code`, negative for a signal; not when it ended in order
    stopping        the node claims no more jobs
    database away   `message` says why; and 'database back'

    Where the job runs in this process, only the first three are told. Texts are shortened, to 100 or 200 characters,
    ids included. When failures come faster than they can be told, some are not.
    """

    what: What
    bee: int | None = None
    job_id: str = ""
    count: int = 1
    limit: int = 0
    kind: Kind | None = None
    type: str = ""
    message: str = ""
    final: bool = False
    code: int | None = None
    at: float = field(default_factory=time.time)


class Teller:
    """Calls `on_event` with each event, whatever it makes of it: the first error is shown, and those after it not."""

    def __init__(self, on_event: Callable[[NodeEvent], object], display: Quiet) -> None:
        self._on_event = on_event
        self._display = display
        self._complained = False

    def tell(self, event: NodeEvent) -> None:
        try:
            self._on_event(event)
        except BaseException as error:  # SystemExit, too: a run ends by a signal, or when its jobs are done
            if not self._complained:
                self._complained = True
                self._display.wrong("on_event raised; the run goes on, and further errors of it are not shown", error)


class Announcer:
    """The audience of a supervisor: `display`, and besides a teller of all that `board` and news from bees show."""

    def __init__(self, display: Quiet, board: Board, teller: Teller) -> None:
        self._display = display
        self._board = board
        self._teller = teller
        self._next_look = 0.0
        self._completed = 0
        self._running = [0.0] * len(board.slots)
        self._stopping = self._away = False

    def say(self, line: str) -> None:
        self._display.say(line)

    def happened(self, event: Event) -> None:
        self._display.happened(event)
        self._teller.tell(of_failure(event))

    def started(self, slot: int) -> None:
        self._teller.tell(NodeEvent("bee started", slot))

    def died(self, slot: int, code: int) -> None:
        self._look()
        self._teller.tell(NodeEvent("bee died", slot, code=code))

    def refresh(self) -> float:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY
            self._look()
        return min(self._display.refresh(), self._next_look - now)

    def close(self) -> None:
        """The last that is to be told."""
        self._look()

    def _look(self) -> None:
        header, tell = self._board.header, self._teller.tell
        for index, slot in enumerate(self._board.slots):
            # Jobs are told apart by when they started: positions come again, when a job is tried again.
            job = slot.started if slot.phase is Phase.ALIVE and slot.hand.pos else 0.0
            if job and job != self._running[index]:
                tell(NodeEvent("claimed", index, slot.read_job_id()))
            self._running[index] = job
        if (completed := self._board.completed) > self._completed:
            tell(NodeEvent("complete", count=completed - self._completed))
            self._completed = completed
        if header.stop and not self._stopping:
            self._stopping = True
            tell(NodeEvent("stopping"))
        if bool(header.away) != self._away:
            self._away = bool(header.away)
            tell(NodeEvent("database away", message=header.read_why()) if self._away else NodeEvent("database back"))


def of_failure(event: Event) -> NodeEvent:
    """The news of a failure, as the caller gets it."""
    return NodeEvent(
        "lost" if event.kind is Kind.LOST else "failed",
        event.slot,
        event.job_id,
        event.count,
        event.limit,
        event.kind,
        event.type,
        event.message,
        event.state is State.FAILED,
    )


class TellingWitness:
    """`witness`, and besides a teller."""

    def __init__(self, witness: Narrator | Mute, teller: Teller) -> None:
        self._witness = witness
        self._teller = teller

    def say(self, line: str) -> None:
        self._witness.say(line)

    def claimed(self, job: Job) -> None:
        self._witness.claimed(job)
        self._teller.tell(NodeEvent("claimed", 0, job.job_id))

    def completed(self, job: Job) -> None:
        self._witness.completed(job)
        self._teller.tell(NodeEvent("complete", 0, job.job_id))

    def charged(self, charge: Charge) -> None:
        self._witness.charged(charge)
        self._teller.tell(of_failure(Event.of(0, charge)))
