"""How soon to try again with a bee that died before it claimed anything, and when to stop trying."""

from __future__ import annotations

import time

FIRST, LONGEST = 0.1, 30.0  # seconds
LIMIT = 5  # such deaths in a row, with nothing completed on the node in between


class Backoff:
    """Such deaths are the node's, no job is to blame: a wrong library, a function that cannot be loaded."""

    def __init__(self, slots: int) -> None:
        self.until = [0.0] * slots  # for each slot, the monotonic second before which it gets no bee
        self._in_a_row = [0] * slots
        self._deaths = 0
        self._completed = 0

    def lived(self, slot: int) -> None:
        """The slot's bee came as far as its work."""
        self._in_a_row[slot] = 0

    def died(self, slot: int, completed: int) -> float | None:
        """A bee of `slot` died without a claim, when the node had `completed` so many jobs.

        Returns the seconds until its next one, or None: there is no use in trying on.
        """
        self._deaths = 1 if completed > self._completed else self._deaths + 1
        self._completed = completed
        if self._deaths >= LIMIT:
            return None
        # Per slot: others that complete jobs meanwhile keep the node going, and must not keep this slot spinning.
        pause: float = min(FIRST * 2 ** min(self._in_a_row[slot], 10), LONGEST)
        self._in_a_row[slot] += 1
        self.until[slot] = time.monotonic() + pause
        return pause
