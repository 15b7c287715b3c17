"""Waiting for conditions, and looking at processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

T = TypeVar("T")

# The machine may be slow: a deadline only bounds how long a broken promise takes to be noticed.
PATIENCE = 60.0

PLENTY = 10**9  # pending jobs, by the board's word: bees claim ahead


class Indifferent:
    """A bee's witness."""

    hears_each = True

    def holds(self, claim):
        pass

    def claimed(self, job):
        pass

    def completed(self, job):
        pass

    def charged(self, charge):
        pass


def wait_until(condition: Callable[[], T], what: str = "", seconds: float = PATIENCE) -> T:
    """What `condition()` returns once it is true; an AssertionError naming `what` if that takes too long."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain for {what or condition}")
        time.sleep(0.01)
    return result


def alive(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
