"""`python -m tests.chaos`: see --help."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from random import SystemRandom

from tests.chaos.report import report
from tests.chaos.run import Run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Try to break every promise.")
    time = parser.add_mutually_exclusive_group()
    time.add_argument("--minutes", type=float, help="begin new rounds for so long")
    time.add_argument("--seconds", type=float, default=60.0, help="the same in seconds (default: %(default)g)")
    parser.add_argument("--seed", type=int, help="what is drawn from it is drawn again (default: another each time)")
    parser.add_argument("--round", type=int, default=0, help="begin with this round of the seed (default: the first)")
    parser.add_argument("--jobs", type=int, default=800, help="per round (default: %(default)d)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep journals and logs there")
    given = parser.parse_args()
    seed = SystemRandom().randrange(2**31) if given.seed is None else given.seed
    seconds = given.seconds if given.minutes is None else 60 * given.minutes
    print(f"seed {seed}, {given.jobs} jobs a round, for {seconds:g} s", flush=True)
    run = Run(seed, given.jobs, given.keep and given.keep.absolute())
    fine = run.go_on(seconds, given.round)
    print(report(run.results))
    if not fine:
        rounds = [result.number for result in run.results if result.wrong]
        print(f"BROKEN; again with: python -m tests.chaos --seed {seed} --jobs {given.jobs} --round {rounds[0]}")
    return 0 if fine else 1


def heed_signals() -> None:
    """End in order, and let the scripts begin with the defaults: what a shell's background job ignores, they would."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


if __name__ == "__main__":
    heed_signals()
    sys.exit(main())
