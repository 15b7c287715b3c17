"""Pictures of a run: how far each promise is kept, and the curves of growth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.table import Row

KEPT, MISSED = "#2a7f62", "#b5482f"


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draw them into `file`, of the kind that its name says."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    judged = [row for row in rows if row.reached is not None and row.counted]
    curves = sorted({row.point[0] for row in rows if row.point})
    panels = bool(judged) + len(curves)
    heights = [max(2.0, 0.4 * len(judged) + 1)] * bool(judged) + [4.0] * len(curves)
    figure, axes = pyplot.subplots(
        max(panels, 1), figsize=(12, sum(heights) or 2), height_ratios=heights or None, squeeze=False
    )
    panes = iter(axes.flat)
    if judged:
        _draw_ratios(next(panes), judged)
    for curve in curves:
        _draw_curve(next(panes), curve, [row for row in rows if row.point and row.point[0] == curve])
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


def _draw_ratios(axes: Any, rows: Sequence[Row]) -> None:
    """A bar for each row: how many times its target it reaches, on a logarithmic scale; left of 1 it is missed."""
    rows = list(reversed(rows))
    shares = [_share(row) for row in rows]
    axes.barh(
        range(len(rows)), [share - 1 for share in shares], left=1, color=[KEPT if s >= 1 else MISSED for s in shares]
    )
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=7)
    axes.set_xlabel("times the target (right of 1: kept)")


def _share(row: Row) -> float:
    assert row.counted is not None
    assert row.target is not None
    return row.target / row.counted if row.at_most else row.counted / row.target


def _label(row: Row) -> str:
    text = f"{row.what} / {row.against}" if row.against else row.what
    return text if len(text) <= 100 else f"{text[:99]}…"


def _draw_curve(axes: Any, name: str, rows: Sequence[Row]) -> None:
    """The rate over the number of jobs or bees, with the least and the most of the rounds."""
    points = sorted((row.point[1], row.measured) for row in rows if row.point and row.measured)
    xs, samples = zip(*points, strict=True)
    axes.plot(xs, [sample.median for sample in samples], marker="o", color=KEPT)
    low, high = ([pick(sample.values) for sample in samples] for pick in (min, max))
    axes.fill_between(xs, low, high, color=KEPT, alpha=0.2)
    axes.set_xscale("log", base=10 if name == "jobs" else 2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(name)
    axes.set_ylabel("no-op jobs/s")
    axes.grid(alpha=0.3)
