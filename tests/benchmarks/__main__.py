"""`python -m tests.benchmarks`: see --help."""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import sys
import time
import traceback
from pathlib import Path

from tests.benchmarks import (
    deaths,
    growth,
    limit,
    loading,
    machine,
    memory,
    peers,
    sleeping,
    starting,
    throughput,
    waiting,
    wal,
)
from tests.benchmarks.run import ROUNDS, Run
from tests.benchmarks.server import running
from tests.benchmarks.table import Row, markdown

# In this order. What peers and growth measure is no promise, and takes long: they run when they are asked for.
BENCHMARKS = {
    module.__name__.rpartition(".")[2]: module
    for module in (limit, throughput, loading, sleeping, deaths, starting, waiting, memory, wal, peers, growth)
}
ON_REQUEST = {"peers", "growth"}


def main() -> int:
    given = _arguments()
    names = [name for name in BENCHMARKS if name in (given.name or BENCHMARKS.keys() - ON_REQUEST)]
    if given.peers and "peers" not in names:
        names.append("peers")
    with running() as server:
        about = machine.describe(server.setting("server_version"), server.home)
        run = Run(server, quick=given.quick, peers=given.peers, rounds=given.rounds)
        begun = time.monotonic()
        rows: list[Row] = []
        failed = False
        for name in names:
            run.say(f"{name}:")
            failed |= not _collect(name, run, rows)
        settings = ("fsync", "synchronous_commit", "shared_buffers", "max_wal_size")
        about.append(("server", ", ".join(f"{setting} {server.setting(setting)}" for setting in settings)))
        about.append(("run", f"medians of {run.rounds}, {time.monotonic() - begun:.0f} s{', quick' * given.quick}"))
    print(markdown(rows, about))
    if given.json:
        result = {"about": dict(about), "quick": given.quick, "rows": [row.as_json() for row in rows]}
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    if given.plot:
        from tests.benchmarks.plot import draw

        draw(rows, given.plot)
    return int(failed)


def _collect(name: str, run: Run, rows: list[Row]) -> bool:
    """Add the rows of a benchmark as they come; whether it got to its end."""
    try:
        rows.extend(BENCHMARKS[name].rows(run))
    except Exception as error:
        # Of any kind: what others took hours to measure is not to be lost.
        traceback.print_exc()
        rows.append(Row(name, name, None, "", note=f"failed: {type(error).__name__}: {error}"))
        return False
    return True


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure what workerbee promises, each beside what it is compared with, and print one table.",
    )
    parser.add_argument("name", nargs="*", help=f"of {', '.join(BENCHMARKS)} (default: all but peers and growth)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: the figures mean nothing")
    parser.add_argument("--peers", action="store_true", help="measure pools and queues of others, too")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="measure so often (default: %(default)d)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too, with every round")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios and the curves there (matplotlib)")
    given = parser.parse_args()
    if unknown := set(given.name) - BENCHMARKS.keys():
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    if given.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install 'workerbee[bench]'")
    return given


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
