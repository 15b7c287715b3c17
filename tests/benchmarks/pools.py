"""Pools that keep everything in memory: those of the standard library, and loky."""

from __future__ import annotations

import importlib.util
import multiprocessing
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.benchmarks.fresh import fresh
from tests.benchmarks.jobset import ids
from tests.benchmarks.run import Run

WORKERS = 2


def nothing(job_id: str) -> None:
    """The no-op job."""


def run_pool(jobs: int, chunksize: int) -> float:
    """Seconds from start to end of `multiprocessing.Pool.imap_unordered`."""
    begun = time.monotonic()
    with multiprocessing.Pool(WORKERS) as pool:
        deque(pool.imap_unordered(nothing, ids(jobs), chunksize), maxlen=0)
        pool.close()
        pool.join()
    return time.monotonic() - begun


def run_executor(jobs: int, chunksize: int) -> float:
    """The same of `ProcessPoolExecutor.map`."""
    begun = time.monotonic()
    with ProcessPoolExecutor(WORKERS) as executor:
        deque(executor.map(nothing, ids(jobs), chunksize=chunksize), maxlen=0)
    return time.monotonic() - begun


def run_loky(jobs: int, chunksize: int) -> float:
    """The same of loky's executor, which is reused: so its processes are there before the clock starts."""
    from loky import get_reusable_executor

    executor = get_reusable_executor(max_workers=WORKERS)
    deque(executor.map(nothing, ids(1000)), maxlen=0)
    begun = time.monotonic()
    deque(executor.map(nothing, ids(jobs), chunksize=chunksize), maxlen=0)
    seconds = time.monotonic() - begun
    executor.shutdown()
    return seconds


POOLS = {
    "multiprocessing.Pool(2).imap_unordered": (run_pool, 1_000_000),
    "ProcessPoolExecutor(2).map": (run_executor, 200_000),
    "loky.get_reusable_executor(2).map": (run_loky, 200_000),
}


def installed(pool: str) -> bool:
    return not pool.startswith("loky") or importlib.util.find_spec("loky") is not None


def named(pool: str, chunksize: int) -> str:
    return f"{pool}(chunksize={chunksize})"


def trial(run: Run, pool: str, chunksize: int) -> dict[str, partial[float]]:
    """How to measure one of `POOLS`, in jobs a second: with more jobs where chunks make it faster."""
    _, singly = POOLS[pool]
    jobs = run.size(singly, 10_000) if chunksize == 1 else run.size(2_000_000, 100_000)
    return {named(pool, chunksize): partial(rate, pool, jobs, chunksize)}


def rate(pool: str, jobs: int, chunksize: int) -> float:
    function, _ = POOLS[pool]
    return jobs / fresh(function, jobs=jobs, chunksize=chunksize)
