"""A jobset's history as one figure, for a report."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from workerbee.errors import InvalidValue, MissingPackage
from workerbee.history import History
from workerbee.job import Kind
from workerbee.progress import duration
from workerbee.text import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg", "pdf")
GREEN, RED, BLUE, YELLOW, GREY = "#2a7f62", "#b5482f", "#5f8bb8", "#d3b653", "#777777"
KINDS = {Kind.ERROR: "#d98c3f", Kind.TIMEOUT: "#e3c04d", Kind.CRASH: RED, Kind.MEMORY: "#8d5a97", Kind.LOST: GREY}
DECADE_TENTH = 10**0.1
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
}


def draw(history: History, path: str | os.PathLike[str], width: float, height: float) -> None:
    """Draw into a .png, .svg or .pdf file of so many inches. Raises `MissingPackage` without matplotlib."""
    target = Path(path)
    if target.suffix.removeprefix(".").lower() not in FORMATS:
        allowed = ", ".join(f".{name}" for name in FORMATS)
        raise InvalidValue(f"a plot's path must end in one of {allowed}, not {shown(target.name)}")
    for name, inches in (("width", width), ("height", height)):
        if isinstance(inches, bool) or not isinstance(inches, (int, float)) or not 3 <= inches <= 100:
            raise InvalidValue(f"{name} must be a number of inches from 3 to 100, not {shown(inches)}")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackage(f"a plot needs matplotlib: pip install 'workerbee[plot]' ({error})") from None
    panels = [_draw_done, _draw_rate, _draw_bees, *([_draw_failures] if history.failures else []), _draw_durations]
    columns = 2 if width > 1.2 * height else 1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.add_gridspec(-(-len(panels) // columns), columns)
        for number, panel in enumerate(panels):
            row, column = divmod(number, columns)
            # The last one has what is left of its row.
            cell = grid[row, column:] if number == len(panels) - 1 else grid[row, column]
            panel(figure.add_subplot(cell), history)
        figure.suptitle(_title(history), fontsize=11, x=0.01, ha="left")
        figure.savefig(target, dpi=150)


def _title(history: History) -> str:
    counts = history.jobset.counts
    *_, end = edges = _edges(history)
    left = counts.pending + counts.claimed
    parts = [f"{counts.complete:,} of {counts.total:,} jobs complete", f"{counts.failed:,} failed"]
    parts += [f"{left:,} left"] if left else []
    span = f"{edges[0]:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S %Z}"
    return f"{history.jobset.jobset_id}: {', '.join(parts)}\n{span}, {duration(history.step * len(history.complete))}"


def _edges(history: History) -> list[datetime]:
    """Where the steps begin, and the last one ends, in the reader's own time."""
    begun = history.begun.astimezone()
    return [begun + timedelta(seconds=number * history.step) for number in range(len(history.complete) + 1)]


def _draw_done(axes: Axes, history: History) -> None:
    edges = _edges(history)
    for series, name, colour in ((history.complete, "complete", GREEN), (history.failed, "failed", RED)):
        sums = [0.0, *accumulate(series)]
        if sums[-1]:
            axes.plot(edges, sums, color=colour, label=name)
            axes.fill_between(edges, sums, color=colour, alpha=0.15, linewidth=0)
    axes.set_title("Jobs done")
    _finish(axes, edges, integer=True)


def _draw_rate(axes: Axes, history: History) -> None:
    rates = [(done + failed) / history.step for done, failed in zip(history.complete, history.failed, strict=True)]
    factor, unit = 3600, "hour"
    for fewer, shorter in ((60, "minute"), (1, "second")):
        if max(rates) * fewer >= 1:
            factor, unit = fewer, shorter
    edges = _edges(history)
    axes.stairs([rate * factor for rate in rates], edges, fill=True, color=BLUE)
    axes.set_title(f"Jobs per {unit}")
    _finish(axes, edges)


def _draw_bees(axes: Axes, history: History) -> None:
    edges = _edges(history)
    axes.stairs(history.bees, edges, fill=True, color=YELLOW)
    axes.set_title("Bees alive")
    _finish(axes, edges, integer=True)


def _draw_failures(axes: Axes, history: History) -> None:
    edges = _edges(history)
    below = [0] * len(history.complete)
    for kind, counts in history.failures.items():
        top = [low + count for low, count in zip(below, counts, strict=True)]
        axes.stairs(top, edges, baseline=below, fill=True, color=KINDS[kind], label=f"{kind.value} ({sum(counts):,})")
        below = top
    step = f"{history.step:.1f} s" if history.step < 10 else duration(history.step)
    axes.set_title(f"Failed attempts, by steps of {step}")
    _finish(axes, edges, integer=True)


def _draw_durations(axes: Axes, history: History) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_title("How long completed jobs took")
    if not history.durations:
        axes.text(0.5, 0.5, "none has completed", transform=axes.transAxes, ha="center", color=GREY)
        axes.set_axis_off()
        return
    total = sum(count for _, count in history.durations)
    starts = [start for start, _ in history.durations]
    shares = [100 * count / total for _, count in history.durations]
    widths = [(DECADE_TENTH - 1) * start for start in starts]
    axes.bar(starts, shares, widths, align="edge", color=GREEN, alpha=0.8)
    axes.set_xscale("log")
    axes.set_xlim(starts[0] / DECADE_TENTH, starts[-1] * DECADE_TENTH**2)
    narrow = starts[-1] < 1000 * starts[0]
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=20))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: _short(seconds)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g} %"))


def _short(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _finish(axes: Axes, edges: list[datetime], integer: bool = False) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    zone = edges[0].tzinfo
    locator = AutoDateLocator(tz=zone, minticks=3, maxticks=7)
    # A tick says all that one needs of it: the date is in the title.
    formats = ["%Y", "%b %Y", "%d %b", "%H:%M", "%H:%M", "%H:%M:%S"]
    zeros = ["", "%Y", "%b %Y", "%d %b", "%H:%M", "%H:%M:%S"]
    formatter = ConciseDateFormatter(locator, tz=zone, formats=formats, zero_formats=zeros, show_offset=False)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(formatter)
    axes.set_xlim(edges[0], edges[-1])
    named = bool(axes.get_legend_handles_labels()[1])
    if named:
        axes.legend(loc="upper left", ncols=len(KINDS), borderaxespad=0)
    # With room for the legend above what it names.
    axes.set_ylim(0, max(axes.get_ylim()[1], 1e-9) * (1.2 if named else 1.02))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=integer))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
