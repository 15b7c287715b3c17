"""The report of a run: what was done, what it took, and whether that grew from round to round."""

from __future__ import annotations

import statistics
from collections import Counter

from tests.chaos.run import Result

ENOUGH = 6  # rounds, to tell a trend
# What rounds differ by, since faults and jobs do.
SLACK = {"MB": 5, "fds": 10, "grown": 5, "kB": 500, "rows": 1000}


def report(results: list[Result]) -> str:
    """A summary in a few lines."""
    faults: Counter[str] = sum((result.faults for result in results), Counter())
    kinds: Counter[str] = sum((result.kinds for result in results), Counter())
    lines = [
        f"{len(results)} rounds in {sum(result.seconds for result in results):.0f} s: "
        f"{sum(result.states.total() for result in results)} jobs, "
        f"{sum(result.attempts for result in results)} attempts, failures {dict(kinds)}, "
        f"{sum(result.samples for result in results)} snapshots of the tables, "
        f"{sum(result.narrow for result in results)} jobs killed while they returned",
        f"{faults.total()} faults: " + ", ".join(f"{count} {name}" for name, count in faults.most_common()),
    ]
    lines += [_course(name, [result.usage[name] for result in results]) for name in results[0].usage]
    for table in sorted({table for result in results for table in result.sizes}):
        sizes = [result.sizes.get(table, (0, 0)) for result in results]
        lines.append(_course(f"{table} kB", [size / 1000 for size, _ in sizes]))
        lines.append(_course(f"{table} dead rows", [dead for _, dead in sizes]))
    return "\n".join(lines)


def _course(name: str, values: list[float]) -> str:
    line = f"  {name}: {min(values):.1f} to {max(values):.1f}"
    if len(values) >= ENOUGH:
        third = len(values) // 3
        first, last = statistics.median(values[:third]), statistics.median(values[-third:])
        trend = "flat" if last <= 1.5 * first + SLACK[name.rsplit(maxsplit=1)[-1]] else "GROWS"
        line += f", first third {first:.1f}, last third {last:.1f}: {trend}"
    return line
