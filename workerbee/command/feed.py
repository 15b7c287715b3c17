"""What `watch` looks at: a jobset's status, asked for again and again beside whoever shows it."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from dataclasses import dataclass

from workerbee.errors import DatabaseError, WorkerbeeError
from workerbee.jobset import Jobset
from workerbee.records import FailureRecord
from workerbee.status import Status

LATEST = 50  # failures, the newest
SAMPLES = 200  # rates that are remembered


@dataclass(frozen=True)
class Seen:
    """A status, the newest failures, and the rates (jobs a second) between the looks until then."""

    status: Status
    failures: tuple[FailureRecord, ...]
    rates: tuple[float, ...]
    at: float  # monotonic seconds


class Feed:
    """Looks at `jobset` every so many seconds, in a thread: the database may take its time, keys may not.

    `fd` becomes readable when there is something new. `trouble` is what the database says against it, now; `failure`
    what no waiting will change.
    """

    def __init__(self, jobset: Jobset, every: float) -> None:
        self._jobset = jobset
        self._every = every
        self._rates: deque[float] = deque(maxlen=SAMPLES)
        self._before: tuple[float, int] | None = None
        self.fd, self._news = os.pipe()
        self.seen: Seen | None = None
        self.trouble = ""
        self.failure: WorkerbeeError | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def clear(self) -> None:
        """Forget the news."""
        os.read(self.fd, 4096)

    def look(self) -> Seen:
        """Look now. Raises what `Jobset.status` raises."""
        status = self._jobset.status(LATEST)
        failures = tuple(itertools.islice(self._jobset.failures(), LATEST)) if status.failures else ()
        settled = status.counts.complete + status.counts.failed
        at = status.at.timestamp()
        if self._before is not None and at > self._before[0]:
            # Fewer than before: some were reset.
            self._rates.append(max(0.0, (settled - self._before[1]) / (at - self._before[0])))
        self._before = (at, settled)
        return Seen(status, failures, tuple(self._rates), time.monotonic())

    def _run(self) -> None:
        while self.failure is None:
            try:
                self.seen = self.look()
                self.trouble = ""
            except DatabaseError as error:
                self.trouble = str(error)
            except WorkerbeeError as error:
                self.failure = error
            os.write(self._news, b".")
            time.sleep(self._every)
