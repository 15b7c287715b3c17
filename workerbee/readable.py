"""Waiting for descriptors, however high their numbers."""

from __future__ import annotations

import select
from collections.abc import Iterable


def readable(fds: Iterable[int], seconds: float) -> set[int]:
    """Those of `fds` that can be read, or are at their end, within `seconds`."""
    # Not select(), which cannot wait for a descriptor above 1023.
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(1000 * max(0.0, seconds))}
