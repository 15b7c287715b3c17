"""What `watch` shows: the lines of a page, for a terminal of any size."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from workerbee.command.feed import Seen
from workerbee.command.listing import left
from workerbee.command.report import bee_lines, failure_lines, node_lines
from workerbee.display import cause
from workerbee.progress import pace
from workerbee.text import printable

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN_BLOCKS = "_.-:=+*#"
SPARKS = 40  # characters of the sparkline at most
HEAD_LINES = 5
STYLES = {"crash": "red", "memory": "red", "FAILED": "red", "lost": "magenta"}


class View(enum.Enum):
    """Which page; each but the first goes back to it by its own key."""

    ALL = ""
    FAILURES = "f"
    NODES = "n"


def page(seen: Seen, view: View, columns: int, rows: int, plain: bool, trouble: str) -> Group:
    """The whole page: what is always there, then the view's own lines, and the keys in the last one."""
    body: list[RenderableType] = []
    lines = {View.ALL: _overview, View.FAILURES: _failures, View.NODES: _nodes}[view](
        seen, columns, rows - HEAD_LINES - 1
    )
    for line in itertools.islice(lines, max(0, rows - HEAD_LINES - 1)):
        body.append(_cut(line, columns))
    body += [Text("")] * (rows - HEAD_LINES - 1 - len(body))
    return Group(*[*_head(seen, columns, plain, trouble), *body, _keys(view, columns)][:rows])


def _head(seen: Seen, columns: int, plain: bool, trouble: str) -> Iterator[RenderableType]:
    status, counts = seen.status, seen.status.counts
    nodes = f"{status.nodes_alive} node{'s' * (status.nodes_alive != 1)}"
    yield _cut(Text(f"jobset '{status.jobset_id}', {nodes}", style="bold"), columns)
    done = counts.complete + counts.failed
    share = done / counts.total if counts.total else 0.0
    until = {"ended": "ended", "-": ""}.get(left(status), f"about {left(status)} left")
    words = Text(f" {int(100 * share)} %  {until}", no_wrap=True, overflow="ellipsis")
    row = Table.grid()
    row.add_row(ProgressBar(total=1.0, completed=share, width=min(40, columns // 2)), words)
    yield row
    line = Text(f"{counts.complete} of {counts.total} complete, ")
    line.append(f"{counts.failed} failed", style="bold red" if counts.failed else "")
    line.append(f", {counts.claimed} claimed, {counts.pending} pending")
    yield _cut(line, columns)
    rate = f"{pace(status.rate)} lately  "
    yield _cut(Text(rate).append(sparks(seen.rates, min(SPARKS, columns - len(rate)), plain), style="green"), columns)
    yield _cut(Text(trouble and f"the database: {printable(trouble)}", style="yellow"), columns)


def sparks(rates: Sequence[float], most: int, plain: bool) -> str:
    """The last rates as a line of blocks, each as high as it is of the highest."""
    blocks = PLAIN_BLOCKS if plain else BLOCKS
    last = rates[-most:] if most > 0 else ()
    highest = max(last, default=0.0)
    return "".join(blocks[round(rate / highest * (len(blocks) - 1))] if highest else blocks[0] for rate in last)


def _overview(seen: Seen, columns: int, rows: int) -> Iterator[Text]:
    # Each gets so many lines at most, the last one what is left.
    some = max(2, rows // 5)
    yield from _section("Nodes", map(Text, node_lines(seen.status, columns)), some + 1)
    yield from _section("Running longest", map(Text, bee_lines(seen.status.longest_running, columns)), some + 1)
    yield from _section("Failures by cause", _styled(failure_lines(seen.status, columns)), some)
    yield from _section("Last failures", _latest(seen, columns), rows)


def _failures(seen: Seen, columns: int, rows: int) -> Iterator[Text]:
    yield from _section("Failures by cause", _styled(failure_lines(seen.status, columns)), max(1, rows // 2))
    yield from _section("Last failures", _latest(seen, columns), rows)


def _nodes(seen: Seen, columns: int, rows: int) -> Iterator[Text]:
    yield from _section("Nodes", map(Text, node_lines(seen.status, columns)), max(2, rows // 2))
    bees = sorted(seen.status.bees, key=lambda bee: -(bee.seconds or 0))
    yield from _section("Bees", map(Text, bee_lines(tuple(bees), columns)), rows)


def _section(title: str, lines: Iterator[Text], most: int) -> Iterator[Text]:
    """A title, at most `most` of the lines, and how many more there are; nothing if there are none."""
    shown = list(itertools.islice(lines, most))
    if shown:
        yield Text(title, style="bold cyan")
        for line in shown:
            yield Text("  ").append_text(line)
        if more := sum(1 for _ in lines):
            yield Text(f"  and {more} more", style="dim")
        yield Text("")


def _latest(seen: Seen, columns: int) -> Iterator[Text]:
    for record in seen.failures:
        final = " FAILED" if record.final else f" attempt {record.attempt}"
        line = f"{record.failed_at.astimezone():%H:%M:%S} '{printable(record.job_id, 100)}'{final}: "
        line += printable(cause(record.kind, record.type, record.message), max(30, columns))
        yield Text(line, style=STYLES.get("FAILED" if record.final else record.kind.value, ""))


def _styled(lines: Iterator[str]) -> Iterator[Text]:
    for line in lines:
        yield Text(line, style=next((style for word, style in STYLES.items() if word in line), ""))


def _keys(view: View, columns: int) -> Text:
    keys = {"q": "quit", "f": "failures", "n": "nodes"}
    if view is not View.ALL:
        keys[view.value] = "back"
    return _cut(Text("  ".join(f"{key} {what}" for key, what in keys.items()), style="reverse"), columns)


def _cut(line: Text, columns: int) -> Text:
    line.truncate(columns, overflow="ellipsis")
    line.no_wrap = True
    return line
