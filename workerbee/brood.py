"""A node's child processes: what to wait for, what they print, and what they leave behind."""

from __future__ import annotations

import contextlib
import selectors
import threading
import time

from workerbee import orphans
from workerbee.child import Child, adopt_orphans
from workerbee.output import Output

LAST_WORDS = 10.0  # seconds that a process has to end when it must


class Brood:
    """The bees by slot, and the keeper, of one node; `mark` begins the mark of all that bees start.

    From here to `abandon()`, processes whose parent dies become children of this one.
    """

    def __init__(self, mark: str) -> None:
        self.bees: dict[int, Child] = {}
        self.keeper: Child | None = None
        self._mark = mark
        self._outputs: dict[int, list[Output]] = {}
        self._selector = selectors.DefaultSelector()
        # What the caller started before is none of ours.
        self._strangers = orphans.children()
        adopt_orphans(True)

    @property
    def fds(self) -> list[int]:
        """All that is waited for, and what waits: this process's alone, for a child to close."""
        waiting = [self._selector.fileno()] if isinstance(self._selector, selectors.EpollSelector) else []
        return [*(key.fd for key in self._selector.get_map().values()), *waiting]

    def watch(self, fd: int) -> None:
        """Wake when `fd` is readable."""
        self._selector.register(fd, selectors.EVENT_READ)

    def wait(self, seconds: float) -> None:
        """Sleep until a child has ended, has printed something, or anything else is to be read."""
        self._selector.select(max(0.0, seconds))

    def add_bee(self, slot: int, bee: Child, outputs: list[Output]) -> None:
        self.bees[slot], self._outputs[slot] = bee, outputs
        for fd in (bee.fd, *(output.fd for output in outputs)):
            self.watch(fd)

    def add_keeper(self, keeper: Child) -> None:
        self.keeper = keeper
        self.watch(keeper.fd)

    def bury(self, slot: int) -> None:
        """Let go of a bee that has ended, and end what it left behind."""
        bee = self.bees.pop(slot)
        for output in self._outputs.pop(slot):
            self._unwatch(output.fd)
            output.close()
        self._unwatch(bee.fd)
        bee.close()
        self._end_orphans(orphans.bee_mark(self._mark, bee.pid))

    def drop_keeper(self) -> None:
        """Let go of a keeper that has ended."""
        if self.keeper:
            self._unwatch(self.keeper.fd)
            self.keeper.close()
            self.keeper = None

    def pass_on(self) -> None:
        """Pass on what bees have printed."""
        for outputs in self._outputs.values():
            for output in outputs:
                if not output.pass_on():
                    # A job has closed it. Readable for ever, it would keep us awake.
                    self._unwatch(output.fd)

    def abandon(self) -> None:
        """Leave nothing running."""
        children = [child for child in (*self.bees.values(), self.keeper) if child and child.poll() is None]
        for child in children:
            child.kill()
        deadline = time.monotonic() + LAST_WORDS
        for child in children:
            child.wait(max(0.0, deadline - time.monotonic()))
        for slot in list(self.bees):
            self.bury(slot)
        self.drop_keeper()
        deadline = time.monotonic() + LAST_WORDS
        self._end_orphans(self._mark)
        while any(orphans.wears(pid, self._mark) for pid in orphans.children()) and time.monotonic() < deadline:
            self._end_orphans(self._mark)
        adopt_orphans(False)
        self._selector.close()

    def _unwatch(self, fd: int) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)

    def _end_orphans(self, mark: str) -> None:
        """End what processes with `mark` left to us, and reap what has ended."""
        ours = {child.pid for child in (*self.bees.values(), self.keeper) if child}
        left = orphans.children() - self._strangers - ours
        orphans.end(left, mark)
        # With other threads about, a child may be one of theirs, and they will want to wait for it.
        if threading.active_count() == 1:
            orphans.reap(left)
