"""`workerbee watch`: a jobset's status, live."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

from workerbee.command.addressing import takes_address
from workerbee.command.blame import in_short
from workerbee.command.feed import Feed, Seen
from workerbee.command.layout import say
from workerbee.command.listing import left
from workerbee.command.report import summary
from workerbee.jobset import Jobset
from workerbee.progress import pace
from workerbee.terminal import Stream

STALE = 10  # seconds after which it is said how old the numbers are
TICK = 0.5  # seconds between looks at the terminal's size
# Seconds between lines where there is no terminal: a run of hours needs fewer of them.
FIRST_LINES_EVERY, LAST_LINES_EVERY = 5.0, 60.0
MOST_FAILURES = 10  # told one by one between two lines
LINE_WIDTH = 160


@click.command("watch")
@click.argument("jobset_id", metavar="JOBSET")
@click.option(
    "--every", type=click.FloatRange(0.2), default=2.0, show_default=True, metavar="SECONDS", help="Look so often."
)
@takes_address
def watch_command(jobset_id: str, every: float, address: dict[str, Any]) -> int:
    """Watch a jobset live: progress, nodes, what runs, failures as they come.

    Keys: q quits, f shows failures, n nodes and bees. Where stdout is no terminal, a line is printed now and then,
    until the jobset has ended. Exit code 0 if all jobs are COMPLETE by then, 1 if not.
    """
    feed = Feed(Jobset(jobset_id, **address), every)
    seen = feed.look()  # an error that ends it all is told on a terminal that is still as it was
    if Stream("stdout").is_terminal:
        seen = _show_page(feed, seen, every)
        say(summary(seen.status))
    else:
        seen = _print_lines(feed, seen, every)
    return 0 if seen.status.counts.complete == seen.status.counts.total else 1


def _print_lines(feed: Feed, seen: Seen, every: float) -> Seen:
    begun = time.monotonic()
    told = 0
    while True:
        fresh = _failures(seen) - told
        for record in reversed(seen.failures[: min(fresh, MOST_FAILURES)]):
            click.echo(in_short(record, LINE_WIDTH))
        if fresh > MOST_FAILURES:
            click.echo(f"and {fresh - MOST_FAILURES} more failed attempts")
        told += max(0, fresh)
        click.echo(_line(seen))
        sys.stdout.flush()
        if seen.status.ended:
            return seen
        time.sleep(max(every, min(LAST_LINES_EVERY, FIRST_LINES_EVERY + (time.monotonic() - begun) / 60)))
        seen = feed.look()


def _failures(seen: Seen) -> int:
    return sum(group.count for group in seen.status.failures)


def _line(seen: Seen) -> str:
    status, counts = seen.status, seen.status.counts
    share = int(100 * (counts.complete + counts.failed) / counts.total) if counts.total else 0
    until = {"ended": ", ended", "-": ""}.get(left(status), f", about {left(status)} left")
    return (
        f"{share} %: {counts.complete} of {counts.total} complete, {counts.failed} failed, {counts.claimed} claimed, "
        f"{status.nodes_alive} node{'s' * (status.nodes_alive != 1)}, {pace(status.rate)}{until}"
    )


def _show_page(feed: Feed, seen: Seen, every: float) -> Seen:
    """Show pages until q is pressed; the last that was seen."""
    from rich.console import Console
    from rich.live import Live

    from workerbee.command.page import View, page

    console = Console(highlight=False)
    plain = not console.encoding.startswith("utf")
    view, shown = View.ALL, None
    feed.start()
    with _ended_by_signals(), _single_keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            age = int(time.monotonic() - seen.at)
            trouble = feed.trouble or (f"no answer for {age} s" if age > max(STALE, 2 * every) else "")
            state = (seen, view, console.size, trouble)
            if state != shown:
                shown = state
                live.update(page(seen, view, *console.size, plain, trouble), refresh=True)
            ready, _, _ = select.select([feed.fd, *keys], [], [], TICK)
            if feed.fd in ready:
                feed.clear()
                if feed.failure:
                    raise feed.failure
                seen = feed.seen or seen
            for key in os.read(keys[0], 100).decode("ascii", "replace") if keys and keys[0] in ready else "":
                if key in "qQ":
                    return seen
                if key in "fn":
                    view = View.ALL if view.value == key else View(key)


@contextlib.contextmanager
def _single_keys() -> Iterator[list[int]]:
    """Get keys as they are pressed, unseen: the descriptor to read them from, if stdin is a terminal."""
    if not sys.stdin or not sys.stdin.isatty():
        yield []
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield [fd]
    finally:
        # A terminal that is gone needs no restoring.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end us as Ctrl-C does, so that the terminal is restored. Ctrl-Z would leave it as is."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
