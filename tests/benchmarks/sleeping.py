"""Jobs that only wait: how near the bees come to what nobody could better, also far from their database."""

from __future__ import annotations

import heapq
import math
import multiprocessing
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator

from tests.benchmarks.distance import far
from tests.benchmarks.fresh import fresh
from tests.benchmarks.jobset import number_of, work
from tests.benchmarks.run import Run
from tests.benchmarks.sample import Sample
from tests.benchmarks.server import Parameters
from tests.benchmarks.table import Row

BEES, NAP = 64, 0.1
FAR_BEES, FAR_NAPS, AWAY = 8, (0.005, 0.05), 0.02
FEW_BEES, MEDIAN, SIGMA = 8, 0.02, 2.0


def sleep_evenly(parameters: Parameters, jobs: int, bees: int, nap: float) -> tuple[float, float]:
    """Jobs a second, with `bees` bees whose jobs each take `nap` seconds: over the whole call; and over the time in
    which every bee has begun, and none has come to its end."""
    ends, pids = multiprocessing.RawArray("d", jobs), multiprocessing.RawArray("i", jobs)

    def sleep(job_id: str, _data: object) -> None:
        time.sleep(nap)
        number = number_of(job_id)
        ends[number], pids[number] = time.monotonic(), os.getpid()

    begun = time.monotonic()
    summary = work(parameters, sleep, processes=bees)
    seconds = time.monotonic() - begun
    assert summary.ok, summary
    by_bee: dict[int, list[float]] = defaultdict(list)
    for pid, end in zip(pids, ends, strict=True):
        by_bee[pid].append(end)
    assert len(by_bee) == bees, f"{len(by_bee)} bees"
    first, last = max(map(min, by_bee.values())), min(map(max, by_bee.values()))
    return jobs / seconds, sum(first < end <= last for end in ends) / (last - first)


def sleep_unevenly(parameters: Parameters, jobs: int, seed: int) -> tuple[float, float]:
    """Seconds from the first start to the last end of jobs of mixed length, and what they might have taken."""
    draw = random.Random(seed)
    lengths = [draw.lognormvariate(math.log(MEDIAN), SIGMA) for _ in range(jobs)]
    starts, ends = (multiprocessing.RawArray("d", jobs) for _ in range(2))

    def sleep(job_id: str, _data: object) -> None:
        number = number_of(job_id)
        starts[number] = time.monotonic()
        time.sleep(lengths[number])
        ends[number] = time.monotonic()

    summary = work(parameters, sleep, processes=FEW_BEES)
    assert summary.ok, summary
    order = sorted(range(jobs), key=lambda number: starts[number])
    ideal = list_makespan([ends[number] - starts[number] for number in order], FEW_BEES)
    return max(ends) - min(starts), ideal


def list_makespan(lengths: list[float], bees: int) -> float:
    """How long the jobs take when each in turn goes to whoever is free first, at no cost."""
    free = [0.0] * bees
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def rows(run: Run) -> Iterator[Row]:
    jobs = BEES * round(run.size(60, 2) / NAP)
    whole = f"{BEES} bees, {jobs:,} jobs of sleep({NAP}), start and end included"
    steady = f"{BEES} bees, jobs of sleep({NAP}), while all are at work"
    rates: list[float] = []

    def trial() -> float:
        with run.loaded(jobs) as parameters:
            rate, steady_rate = fresh(sleep_evenly, parameters=parameters, jobs=jobs, bees=BEES, nap=NAP)
        rates.append(steady_rate)
        return rate

    ideal = Sample([BEES / NAP])
    yield Row("sleeping", whole, run.measure({whole: trial})[whole], "jobs/s", "ideal", ideal, 0.97)
    yield Row("sleeping", steady, Sample(rates), "jobs/s", "ideal", ideal)
    yield _uneven(run)
    for nap in FAR_NAPS:
        yield _far(run, nap)


def _far(run: Run, nap: float) -> Row:
    jobs = FAR_BEES * round(run.size(20, 2) / nap)
    what = f"{FAR_BEES} bees, jobs of sleep({nap}), the database {1000 * AWAY:.0f} ms away, while all are at work"

    def trial() -> float:
        with run.loaded(jobs) as parameters, far(parameters, AWAY) as distant:
            return float(fresh(sleep_evenly, parameters=distant, jobs=jobs, bees=FAR_BEES, nap=nap)[1])

    return Row("sleeping", what, run.measure({what: trial})[what], "jobs/s", "ideal", Sample([FAR_BEES / nap]))


def _uneven(run: Run) -> Row:
    jobs = run.size(4_000, 150)
    ideals: list[float] = []

    def trial() -> float:
        with run.loaded(jobs) as parameters:
            seconds, ideal = fresh(sleep_unevenly, parameters=parameters, jobs=jobs, seed=len(ideals))
        ideals.append(ideal)
        return seconds / ideal

    # Each round has lengths of its own, so it is the rounds' ratios that count.
    mixed = f"{FEW_BEES} bees, {jobs:,} jobs of mixed length (lognormal, median {MEDIAN} s, sigma {SIGMA:g})"
    what = f"{mixed}: makespan to that of the same order with each job to the first free bee, claims for nothing"
    return Row("sleeping", what, run.measure({what: trial})[what], "x", target=1.03, at_most=True)
