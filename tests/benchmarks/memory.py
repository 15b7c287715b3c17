"""What a bee more takes of the memory."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Iterator

import psutil

from tests.benchmarks.fresh import Fresh, fresh
from tests.benchmarks.holding import holding
from tests.benchmarks.jobset import work
from tests.benchmarks.run import Run
from tests.benchmarks.server import Parameters
from tests.benchmarks.table import Row

FEW, MANY = 2, 10


def proportional(node: Fresh) -> float:
    """MB of all processes of a node; what several share is counted once."""
    top = psutil.Process(node.pid)
    return sum(process.memory_full_info().pss for process in (top, *top.children(recursive=True))) / 1e6


def private_in_a_job(parameters: Parameters, megabytes: int, objects: int) -> float:
    """MB that are a bee's alone after it has collected garbage in a job, where the caller has loaded so much before."""
    loaded = bytearray(megabytes * 1_000_000)
    loaded[::4096] = b"x" * len(loaded[::4096])  # so that the pages are there
    kept = [(number, [number]) for number in range(objects)]
    found = multiprocessing.RawValue("d")

    def look(_job_id: str, _data: object) -> None:
        gc.collect()
        found.value = psutil.Process().memory_full_info().uss / 1e6

    work(parameters, look, processes=1)
    assert len(loaded) + len(kept) == megabytes * 1_000_000 + objects
    return found.value


def rows(run: Run) -> Iterator[Row]:
    def one_more() -> float:
        used = []
        for bees in (FEW, MANY):
            with run.loaded(bees) as parameters, holding(parameters, bees) as node:
                used.append(proportional(node))
        return (used[1] - used[0]) / (MANY - FEW)

    what = f"one bee more in a job ({MANY} bees against {FEW}, proportional set size of the whole node)"
    yield Row("memory", what, run.measure({what: one_more})[what], "MB", target=8, at_most=True)

    def private(megabytes: int, objects: int) -> float:
        with run.loaded(1) as parameters:
            return fresh(private_in_a_job, parameters=parameters, megabytes=megabytes, objects=objects)

    megabytes, objects = run.size(1_000, 100), run.size(1_000_000, 100_000)
    bare = "a bee's own memory in a job"
    array = f"{bare}, with an array of {megabytes:,} MB loaded before the call"
    many = f"{bare}, with {objects:,} tuples loaded before the call, after a garbage collection"
    samples = run.measure(
        {bare: lambda: private(0, 0), array: lambda: private(megabytes, 0), many: lambda: private(0, objects)}
    )
    yield Row("memory", bare, samples[bare], "MB")
    for name in (array, many):
        yield Row("memory", name, samples[name], "MB", bare, samples[bare], 1.1, at_most=True)
