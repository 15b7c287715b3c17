"""Nodes whose jobs last until they are let go, for others to look at meanwhile."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.fresh import Fresh
from tests.benchmarks.jobset import work
from tests.benchmarks.server import Parameters
from tests.helpers import wait_until

GO = "go"


def hold(parameters: Parameters, bees: int, folder: str) -> None:
    """Work with `bees` bees on jobs that each leave a file, and end when there is one named `GO`."""

    def last(_job_id: str, _data: object) -> None:
        (Path(folder) / str(os.getpid())).touch()
        while not (Path(folder) / GO).exists():
            time.sleep(0.05)

    work(parameters, last, processes=bees)


@contextlib.contextmanager
def holding(parameters: Parameters, bees: int) -> Iterator[Fresh]:
    """A node each of whose bees is in a job."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Fresh(hold, parameters=parameters, bees=bees, folder=name) as node:
            wait_until(lambda: len(list(folder.iterdir())) == bees or not node.alive(), "all bees to have a job")
            try:
                yield node
            finally:
                (folder / GO).touch()
            node.result()
