"""The killer: commits a plan's faults one after the other, and ends those that last."""

from __future__ import annotations

import contextlib
import heapq
import threading
import time
from collections.abc import Callable, Iterator

from tests.chaos.plan import Fault


class Killer(threading.Thread):
    """Calls `commit(fault)` for `faults`, until `stop()`."""

    def __init__(self, faults: Iterator[Fault]) -> None:
        super().__init__(daemon=True)
        self._faults = faults
        self._stopped = threading.Event()
        self._undoings: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self.commit: Callable[[Fault], None] = lambda _fault: None
        self.failure: Exception | None = None

    def later(self, seconds: float, undo: Callable[[], None]) -> None:
        """Have `undo` called in so many seconds, or when the killer stops."""
        self._number += 1
        heapq.heappush(self._undoings, (time.monotonic() + seconds, self._number, undo))

    def run(self) -> None:
        try:
            for fault in self._faults:
                if self._wait(fault.after):
                    break
                self.commit(fault)
        except Exception as error:
            self.failure = error
        finally:
            while self._undoings:
                self._undo()

    def stop(self) -> None:
        """Commit no more, and undo what lasts."""
        self._stopped.set()
        self.join()
        if self.failure:
            raise self.failure

    def _wait(self, seconds: float) -> bool:
        """Whether it was stopped within `seconds`."""
        end = time.monotonic() + seconds
        while not self._stopped.is_set() and time.monotonic() < end:
            due = self._undoings[0][0] if self._undoings else end
            self._stopped.wait(max(0.0, min(end, due) - time.monotonic()))
            while self._undoings and self._undoings[0][0] <= time.monotonic():
                self._undo()
        return self._stopped.is_set()

    def _undo(self) -> None:
        _, _, undo = heapq.heappop(self._undoings)
        with contextlib.suppress(ProcessLookupError):
            undo()
