"""A node: this machine's share of the work on a jobset, the one place where processes and jobs meet."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from multiprocessing import Pipe

from setproctitle import getproctitle, setproctitle

from workerbee import memory
from workerbee.address import Address
from workerbee.birth import Birth, thread_pools
from workerbee.board import Board
from workerbee.brood import Brood
from workerbee.child import Child
from workerbee.curfew import Curfew, FailureLimit
from workerbee.display import Quiet
from workerbee.events import Receiver
from workerbee.guards import MemoryGuard, TimeGuard
from workerbee.housekeeping import Housekeeping
from workerbee.job import Counts, JobFunction, Limits
from workerbee.lives import Work, live_as_bee, live_as_keeper
from workerbee.options import NodeOptions
from workerbee.orders import Orders
from workerbee.output import Output
from workerbee.portable import Portable
from workerbee.probation import Probation
from workerbee.signals import Signals, noted
from workerbee.stopping import Stopping
from workerbee.supervisor import Audience, Duty, Supervisor
from workerbee.telling import Announcer, Teller


class Node:
    """The pipes, the board and the processes of one node; `row` is the node's in the database, and `counts` are the
    jobset's when it joined."""

    def __init__(
        self,
        address: Address,
        jobset_id: str,
        function: JobFunction,
        limits: Limits,
        options: NodeOptions,
        row: int,
        counts: Counts,
    ) -> None:
        events, self._sender = Pipe(duplex=False)
        self._receiver = Receiver(events)
        self._wake_reader, self._wake_writer = Pipe(duplex=False)
        for end in (self._sender, self._wake_writer):
            os.set_blocking(end.fileno(), False)
        self.board = Board(options.bees or 1)
        self.board.header.node = row
        self.board.header.write_counts(counts, failed_here=0)
        self.stopping: Stopping | None = None
        self._brood: Brood | None = None
        self._title = getproctitle()
        self.work = Work(
            address,
            jobset_id,
            Portable(function),
            limits,
            options,
            self.board,
            self._sender,
            os.getpid(),
            secrets.token_hex(8),
        )

    def supervise(self, display: Quiet, teller: Teller | None = None) -> signal.Signals | None:
        """Run bees under a supervisor until there is no more work; returns the signal that ended it before."""
        work = self.work
        if work.options.start_method != "fork":
            work.function.packed()  # raises now, in the caller's face, not in every bee
        work.title("supervisor")
        thread_pools.cache_clear()
        thread_pools()
        with noted() as signals:
            announcer = Announcer(display, self.board, teller) if teller else None
            supervisor = self._make_supervisor(signals, display, announcer or display)
            display.watch(self.board)
            try:
                supervisor.run()
            finally:
                if announcer:
                    announcer.close()
                display.close()
        return signals.stops[0] if signals.stops else None

    def _make_supervisor(self, signals: Signals, display: Quiet, audience: Audience) -> Supervisor:
        board, options = self.board, self.work.options
        self.stopping = stopping = Stopping(board, options.grace, display.say)
        self._brood = brood = Brood(self.work.mark)
        guard = MemoryGuard(board, brood, options.memory_limit, memory.gauges(options.node_memory), display.say)
        duties: list[Duty] = [Probation(board, display.say), guard, *self.duties(stopping)]
        if options.job_timeout is not None:
            duties.append(TimeGuard(board, brood, options.job_timeout))
        return Supervisor(
            board,
            brood,
            stopping,
            Housekeeping(board, brood, self.start_keeper, display.say, stopping, options.db_patience, options.lease),
            lambda index: self._start_bee(index, display),
            self.wake,
            self._receiver,
            signals,
            audience,
            duties,
            lambda: guard.crowd,
        )

    def duties(self, stopping: Stopping) -> list[Duty]:
        """What may stop the node before its jobset ends."""
        options = self.work.options
        found: list[Duty] = [Orders(self.board, stopping)]
        if options.until is not None:
            found.append(Curfew(self.board, options.until, stopping))
        if options.max_failures is not None:
            found.append(FailureLimit(self.board, options.max_failures, stopping))
        return found

    def wake(self) -> None:
        """Rouse the keeper."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_writer.fileno(), b".")

    def start_keeper(self) -> Child:
        """Start the process that keeps house for this node."""
        birth = Birth(os.getpid())
        return Child(self._method, birth, live_as_keeper, (self.work, self._wake_reader), self._own_fds())

    def close(self) -> None:
        """Let go of everything; no process of the node is left."""
        setproctitle(self._title)
        for end in (self._receiver, self._sender, self._wake_reader, self._wake_writer, self.board):
            end.close()

    @property
    def _method(self) -> str:
        return self.work.options.start_method

    def _own_fds(self) -> list[int]:
        brood = self._brood.fds if self._brood else [self._receiver.fd]
        return [*brood, self._wake_writer.fileno()]

    def _start_bee(self, index: int, display: Quiet) -> tuple[Child, list[Output]]:
        log = self.work.log(index)
        pipes = [] if log else [Pipe(duplex=False) for _ in range(2)]
        writers = [writer for _, writer in pipes]
        outputs = [Output(reader, write) for (reader, _), write in zip(pipes, (display.out, display.err), strict=False)]
        stdout, stderr = writers or (None, None)
        birth = Birth(
            os.getpid(),
            die_with_parent=True,
            expendable=True,
            mark=self.work.mark,
            stdout=stdout,
            stderr=stderr,
            log=log,
            stack=self.board.stacks[index],
            threads=self.work.options.threads_per_bee,
        )
        close = [*self._own_fds(), self._wake_reader.fileno(), *(output.fd for output in outputs)]
        try:
            return Child(self._method, birth, live_as_bee, (self.work, index), close), outputs
        finally:
            for writer in writers:
                writer.close()
