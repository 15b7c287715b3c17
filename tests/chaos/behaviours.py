"""The behaviours of jobs, by name: how often each comes, and how it must end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos import deeds, misdeeds
from tests.chaos.site import Site


@dataclass(frozen=True)
class Behaviour:
    """`act(site)` is what the job does; `kind` is how each of its attempts must fail, of `type`, "" for any.

    Without a `kind` it returns; `once`: after it failed for the first time.
    """

    act: Callable[[Site], None]
    weight: float
    kind: str | None = None
    type: str = ""
    once: bool = False


BEHAVIOURS = {
    "returns": Behaviour(deeds.returns, 250),
    "sleeps": Behaviour(deeds.sleeps, 300),
    "sleeps_long": Behaviour(deeds.sleeps_long, 10),
    "burns": Behaviour(deeds.burns, 200),
    "prints": Behaviour(deeds.prints, 50),
    "closes_fds": Behaviour(deeds.closes_fds, 6),
    "moves": Behaviour(deeds.moves, 6),
    "masks": Behaviour(deeds.masks, 6),
    "handles_signals": Behaviour(deeds.handles_signals, 6),
    "changes_locale": Behaviour(deeds.changes_locale, 6),
    "replaces_stdout": Behaviour(deeds.replaces_stdout, 6),
    "limits_itself": Behaviour(deeds.limits_itself, 6),
    "leaves_threads": Behaviour(deeds.leaves_threads, 6),
    "leaves_grandchildren": Behaviour(deeds.leaves_grandchildren, 8),
    "leaves_daemon": Behaviour(deeds.leaves_daemon, 8),
    "forks_and_both_return": Behaviour(deeds.forks_and_both_return, 8),
    "starts_pool": Behaviour(deeds.starts_pool, 4),
    "spins": Behaviour(misdeeds.spins, 0.7, "timeout", "timeout"),
    "hangs_in_c": Behaviour(misdeeds.hangs_in_c, 0.7, "timeout", "timeout"),
    "suspends_itself": Behaviour(misdeeds.suspends_itself, 0.7, "timeout", "timeout"),
    "waits_for_child": Behaviour(misdeeds.waits_for_child, 0.7, "timeout", "timeout"),
    "ignores_sigterm": Behaviour(misdeeds.ignores_sigterm, 0.7, "timeout", "timeout"),
    "eats_memory": Behaviour(misdeeds.eats_memory, 1, "memory", "memory"),
    "raises": Behaviour(misdeeds.raises, 10, "error", "ValueError"),
    "raises_once": Behaviour(misdeeds.raises_once, 10, "error", "LookupError", once=True),
    "raises_with_bad_str": Behaviour(misdeeds.raises_with_bad_str, 4, "error"),
    "raises_hugely": Behaviour(misdeeds.raises_hugely, 0.3, "error", "ValueError"),
    "raises_unpicklable": Behaviour(misdeeds.raises_unpicklable, 4, "error"),
    "raises_keyboard_interrupt": Behaviour(misdeeds.raises_keyboard_interrupt, 4, "error", "KeyboardInterrupt"),
    "exits": Behaviour(misdeeds.exits, 4, "error", "SystemExit"),
    "leaves_process": Behaviour(misdeeds.leaves_process, 8, "crash", "exit"),
    "reads_nowhere": Behaviour(misdeeds.reads_nowhere, 5, "crash", "SIGSEGV"),
    "overflows_stack": Behaviour(misdeeds.overflows_stack, 3, "crash", "SIGSEGV"),
    "aborts": Behaviour(misdeeds.dies_of(signal.SIGABRT), 3, "crash", "SIGABRT"),
    "bus_error": Behaviour(misdeeds.dies_of(signal.SIGBUS), 3, "crash", "SIGBUS"),
    "divides_badly": Behaviour(misdeeds.dies_of(signal.SIGFPE), 3, "crash", "SIGFPE"),
    "illegal": Behaviour(misdeeds.dies_of(signal.SIGILL), 3, "crash", "SIGILL"),
    "kills_itself": Behaviour(misdeeds.dies_of(signal.SIGKILL), 4, "crash", "SIGKILL"),
}
