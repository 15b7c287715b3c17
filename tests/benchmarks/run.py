"""One run of the benchmarks: how much is measured and how often, and what has been measured so far."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from tests.benchmarks import jobset
from tests.benchmarks.fresh import fresh
from tests.benchmarks.sample import Sample
from tests.benchmarks.server import Parameters, Server

ROUNDS = 5


class Run:
    """`quick` is for seeing that everything works: small sizes, one round. With `peers`, others are measured, too."""

    def __init__(self, server: Server, *, quick: bool, peers: bool, rounds: int = ROUNDS) -> None:
        self.server = server
        self.quick = quick
        self.peers = peers
        self.rounds = 1 if quick else rounds
        self._samples: dict[str, Sample] = {}
        self._templates: dict[int, str] = {}

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def jobs(self, full: int) -> int:
        """How many no-op jobs stand for `full`: fewer where that would take too long."""
        jobs = full // 1000 if self.quick else full
        return max(jobs, self.size(20_000, 1_000))

    def say(self, line: str) -> None:
        """Tell the person who waits."""
        print(line, file=sys.stderr, flush=True)

    def measure(self, trials: Mapping[str, Callable[[], float]]) -> dict[str, Sample]:
        """What each trial yields, in turns, so that a machine that grows slower is so for all of them.

        A name stands for the same measurement throughout the run: what has been measured is not measured again.
        """
        wanted = {name: trial for name, trial in trials.items() if name not in self._samples}
        values: dict[str, list[float]] = {name: [] for name in wanted}
        for _ in range(self.rounds):
            for name, trial in wanted.items():
                begun = time.monotonic()
                values[name].append(trial())
                self.say(f"  {name}: {values[name][-1]:.5g} [{time.monotonic() - begun:.1f} s]")
        self._samples.update({name: Sample(found) for name, found in values.items()})
        return {name: self._samples[name] for name in trials}

    @contextlib.contextmanager
    def loaded(self, jobs: int) -> Iterator[Parameters]:
        """A database for one trial whose jobset has `jobs` jobs, all pending."""
        if jobs not in self._templates:
            parameters = self.server.create_database()
            jobset.load(parameters, jobs)
            self._templates[jobs] = parameters["dbname"]
        with self.server.database(self._templates[jobs]) as parameters:
            yield parameters

    def noops(self, jobs: int, bees: int, claim: str = "auto") -> float:
        """No-op jobs a second through the whole of `postgres_jobset`, loading apart."""
        with self.loaded(jobs) as parameters:
            return jobs / fresh(jobset.run_noops, parameters=parameters, bees=bees, claim=claim)
