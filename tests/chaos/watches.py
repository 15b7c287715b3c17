"""Watches: each is told again and again what is so, and says what has been wrong for too long.

Times are monotonic seconds. A promise of so many seconds is held to three times as many, since the machine may be
slow; the time in which something is excused does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

SLOWNESS = 3.0
REPLACED_WITHIN = 2.0 * SLOWNESS  # a dead bee
GONE_WITHIN = 2.0 * SLOWNESS  # what a killed supervisor leaves
TRANSACTION = 2.0 * SLOWNESS  # that a session of ours may rest in one
HICCUP = 1.0  # a watch that was not asked for so long has not watched


class Streaks:
    """For how many seconds things have been wrong, without a break; those beyond `longest` are told once each."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._seconds: dict[object, float] = {}
        self._told: set[object] = set()
        self._last = 0.0

    def saw(self, now: float, wrong: Iterable[object], excused: Iterable[object] = ()) -> list[object]:
        """Those of `wrong` that have been so for too long; for what is `excused`, time stands still."""
        wrong, excused = set(wrong), set(excused)
        passed = now - self._last if now - self._last < HICCUP else 0.0
        self._last = now
        counted = {key: 0.0 if key in excused or key not in self._seconds else passed for key in wrong}
        self._seconds = {key: self._seconds.get(key, 0.0) + seconds for key, seconds in counted.items()}
        self._told &= wrong
        late = [key for key in wrong if self._seconds[key] > self._longest and key not in self._told]
        self._told.update(late)
        return late


class BeeWatch:
    """While work remains, every node has each of its bees, and its keeper, again within a bounded time."""

    def __init__(self) -> None:
        self._streaks = Streaks(REPLACED_WITHIN)

    def saw(self, now: float, nodes: Mapping[int, tuple[bool, Mapping[str, bool]]]) -> list[str]:
        """`nodes` has for each node whether it is excused at the moment, and which of its processes live."""
        missing = {
            (node, name): excused
            for node, (excused, processes) in nodes.items()
            for name, lives in processes.items()
            if not lives
        }
        late = self._streaks.saw(now, missing, [key for key, excused in missing.items() if excused])
        return [f"node {node} has had no {name} for {REPLACED_WITHIN:g} s" for node, name in late]  # type: ignore[misc]


class IdleWatch:
    """No session of workerbee's stays idle in a transaction."""

    def __init__(self) -> None:
        self._streaks = Streaks(TRANSACTION)

    def saw(self, now: float, sessions: Mapping[tuple[int, float], str]) -> list[str]:
        """`sessions` are those that are so now, by process and begin of the transaction."""
        late = self._streaks.saw(now, sessions)
        return [f"a session is idle in transaction for {TRANSACTION:g} s: {sessions[key]}" for key in late]  # type: ignore[index]


class TerminalWatch:
    """Nothing leads out of COMPLETE and FAILED."""

    def __init__(self) -> None:
        self._terminal: dict[int, str] = {}

    def saw(self, terminal: dict[int, str]) -> list[str]:
        changed = [pos for pos, state in self._terminal.items() if terminal.get(pos) != state]
        wrong = [f"position {pos} was {self._terminal[pos]}, and is {terminal.get(pos)}" for pos in changed[:5]]
        self._terminal = terminal
        return wrong


class ExitWatch:
    """A node that was told to stop has ended when it must."""

    def __init__(self) -> None:
        self._told: set[int] = set()

    def saw(self, now: float, stopping: Mapping[int, float]) -> list[str]:
        """`stopping` has when each living node that was told to stop must have ended."""
        late = [node for node, deadline in stopping.items() if now > deadline and node not in self._told]
        self._told.update(late)
        return [f"node {node} was told to stop, and runs {now - stopping[node]:.1f} s too long" for node in late]
