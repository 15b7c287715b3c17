"""The benchmarks run, and say what they should; how fast anything was is nobody's concern here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.sample import Sample
from tests.benchmarks.sleeping import list_makespan
from tests.benchmarks.table import COLUMNS, Row

ROOT = Path(__file__).parents[1]


# All but those that take minutes, or are measured on request.
QUICK = ["limit", "throughput", "loading", "deaths", "starting", "wal"]


@pytest.mark.timeout(600)
def test_a_quick_run_gives_a_table(tmp_path):
    file = tmp_path / "table.json"
    command = [sys.executable, "-m", "tests.benchmarks", *QUICK, "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table, _, about = done.stdout.partition("\n\n")
    header, _, *lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert tuple(header) == COLUMNS
    found = json.loads(file.read_text())
    assert [line[0] for line in lines] == [row["what"] + (row["note"] and f" [{row['note']}]") for row in found["rows"]]
    assert {row["benchmark"] for row in found["rows"]} == set(QUICK)
    assert all(row["measured"] and min(row["measured"]) >= 0 for row in found["rows"] if not row["note"])
    for name in ("date", "Python", "PostgreSQL", "CPU", "memory"):
        assert f"- {name}: {found['about'][name]}" in about


@pytest.mark.parametrize(
    ("reference", "target", "at_most", "reached"),
    [
        (None, 10, False, True),
        (None, 11, False, False),
        (None, 11, True, True),
        (None, 9, True, False),
        (None, None, False, None),
        (20, 0.5, False, True),
        (20, 0.6, False, False),
        (20, 0.6, True, True),
        (20, 0.4, True, False),
    ],
)
def test_a_row_reaches_its_target(reference, target, at_most, reached):
    against = "" if reference is None else "another"
    sample = None if reference is None else Sample([0, reference, 1e9])
    row = Row("one", "what", Sample([0, 10, 1e9]), "s", against, sample, target, at_most=at_most)
    assert row.reached is reached


def test_what_was_not_measured_reaches_nothing():
    assert Row("one", "what", None, "s", target=1, at_most=True).reached is None
    assert Row("one", "what", Sample([5]), "s", "not there", target=1).reached is None


def test_jobs_go_to_whoever_is_free_first():
    assert list_makespan([3, 1, 1, 1, 4], bees=2) == 7
    assert list_makespan([2, 2, 2], bees=8) == 2
