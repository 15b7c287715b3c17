"""How a keeper waits: for its next duty, for a wake, and for the supervisor's death."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from workerbee.orphans import is_alive
from workerbee.readable import readable


class Abandoned(Exception):  # noqa: N818 - the end of a wait
    """The supervisor is dead, and the database has been away for as long as the node would have waited."""


class Watch:
    """Sleeps until the next duty, a wake, or the supervisor's death; then `end_processes()` kills what it left.

    That cannot wait until the database answers, so the session of the keeper sleeps here, too: for `patience` seconds
    once it is alone.
    """

    def __init__(self, supervisor: int, wake: int, end_processes: Callable[[], None], patience: float) -> None:
        self._supervisor = supervisor
        self._wake = wake
        self._end_processes = end_processes
        self._patience = patience
        self._died = 0.0  # when, in monotonic seconds
        self._pidfd: int | None = None
        if hasattr(os, "pidfd_open"):
            # No such process: `supervisor_died` will find that out.
            with contextlib.suppress(ProcessLookupError):
                self._pidfd = os.pidfd_open(supervisor)

    def wait(self, seconds: float) -> bool:
        """Whether a wake came within `seconds`."""
        fds = [self._wake] if self._pidfd is None else [self._wake, self._pidfd]
        # Without a pidfd nothing tells of the supervisor's death: look for it now and then.
        longest = 0.5 if self._pidfd is None else 3600
        return self._wake in readable(fds, min(seconds, longest)) and bool(os.read(self._wake, 4096))

    def pause(self, seconds: float) -> None:
        """Sleep while the database is away. Raises `Abandoned`."""
        deadline = time.monotonic() + seconds
        while not self.supervisor_died() and (left := deadline - time.monotonic()) > 0:
            self.wait(left)
        if self._died and time.monotonic() - self._died > self._patience:
            raise Abandoned
        time.sleep(max(0.0, deadline - time.monotonic()))

    def supervisor_died(self) -> bool:
        """Whether the supervisor is dead; the first time that it is, what it left is killed."""
        if not self._died and self._is_gone():
            self._died = time.monotonic()
            self._end_processes()
        return bool(self._died)

    def _is_gone(self) -> bool:
        if self._pidfd is not None:
            return bool(readable([self._pidfd], 0))
        return not is_alive(self._supervisor)
