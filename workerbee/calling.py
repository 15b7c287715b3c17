"""The call of a job's function: the only place where user code runs, and where what it raises is caught."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

# By name: a job may put others into their modules.
from json import loads
from time import monotonic
from types import CoroutineType

from workerbee.description import Interrupted
from workerbee.job import Job, JobFunction

# Seconds in which no process has forked. Nor is it worth asking after so short a job whether it left a timer running;
# that is done now and then, between claims.
INSTANT = 20e-6


class Calling:
    """Calls `function` in this process; `tidy` after each call that was not over in an instant."""

    def __init__(self, function: JobFunction, tidy: Callable[[], None]) -> None:
        self._function = function
        self._tidy = tidy
        self._pid = os.getpid()

    def call(self, job: Job, started: float) -> tuple[float, BaseException | None]:
        """When the function was through with `job`, and what it raised."""
        raised = None
        try:
            try:
                result = self._function(job.job_id, loads(job.data) if job.data else {})
            finally:
                ended = monotonic()
                if ended - started > INSTANT:
                    self._tidy()
            if isinstance(result, CoroutineType):
                result.close()
                raise TypeError(
                    "job_function returned a coroutine, which nobody runs: await it inside, or asyncio.run it"
                )
        except Interrupted:
            raise
        except BaseException as error:
            # SystemExit and KeyboardInterrupt, too: a job that leaves the process has not completed.
            raised = error
        if ended - started > INSTANT and os.getpid() != self._pid:
            _leave_fork(raised)
        try:
            return ended, raised
        finally:
            del raised  # it holds this frame, and would be held by it: a cycle, until some collection


def _leave_fork(error: BaseException | None) -> None:
    # The job forked, and this is the child, come back from the function: it must not go on as a second bee.
    try:
        if error is not None:
            sys.excepthook(type(error), error, error.__traceback__)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:  # whatever the job has made of these
        os._exit(0 if error is None else 1)
