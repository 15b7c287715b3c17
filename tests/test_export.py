"""All jobs of a jobset as a file."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tracemalloc

import pytest
from pyarrow import parquet

from workerbee import InvalidType, InvalidValue, Jobset, JobsetNotFound, MissingPackage, postgres_jobset
from workerbee.export import COLUMNS

IDS = {
    "plain": {"x": [1, None, "é"]},
    'quote",\n\r': {},
    "=1+1": None,
    "日本語 \u2028\x1b": {"\ud800": 1.5},
    "bad": None,
}


@pytest.fixture
def jobset(address):
    def job(job_id, _data):
        if job_id == "bad":
            raise ValueError

    postgres_jobset("out", job, IDS, {k: v for k, v in IDS.items() if v}, **address, verbose=False, max_attempts=1)
    found = Jobset("out", **address)
    found.add(["pending"])
    return found


def expected(jobset):
    return sorted(
        (
            job.job_id,
            job.state.value,
            job.errors,
            job.crashes,
            job.losses,
            job.since and job.since.timestamp(),
            job.seconds,
            job.host,
            job.bee,
            job.data,
        )
        for job in jobset.jobs()
    )


def test_csv(jobset, tmp_path):
    assert jobset.export(tmp_path / "jobs.csv") == 6
    with (tmp_path / "jobs.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == COLUMNS
    assert {row[0] for row in rows} == {*IDS, "pending"}
    found = {row[0]: row for row in rows}
    assert json.loads(found["plain"][-1]) == IDS["plain"]
    assert found["pending"][1:] == ["PENDING", "0", "0", "0", "", "", "", "", ""]
    assert found["bad"][1:3] == ["FAILED", "1"]
    assert found["plain"][5].endswith("+00:00")
    assert list(tmp_path.iterdir()) == [tmp_path / "jobs.csv"]


def test_json_lines(jobset, tmp_path):
    assert jobset.export(str(tmp_path / "jobs.JSONL")) == 6
    from datetime import datetime

    rows = [json.loads(line) for line in (tmp_path / "jobs.JSONL").read_text("utf-8").split("\n")[:-1]]
    assert all(tuple(row) == COLUMNS for row in rows)
    for row in rows:
        row["since"] = row["since"] and datetime.fromisoformat(row["since"]).timestamp()
    assert sorted(tuple(row.values()) for row in rows) == expected(jobset)


def test_parquet(jobset, tmp_path, monkeypatch):
    monkeypatch.setattr("workerbee.export.PIECE", 4)
    assert jobset.export(tmp_path / "jobs.parquet") == 6
    table = parquet.read_table(tmp_path / "jobs.parquet")
    assert tuple(table.column_names) == COLUMNS
    rows = table.to_pylist()
    for row in rows:
        row["since"] = row["since"] and row["since"].timestamp()
        row["data"] = row["data"] and json.loads(row["data"])
    assert sorted(tuple(row.values()) for row in rows) == expected(jobset)
    assert parquet.ParquetFile(tmp_path / "jobs.parquet").num_row_groups == 2


@pytest.mark.parametrize("format", [None, "csv", "jsonl", "parquet"])
def test_into_an_open_file(jobset, format):
    file = io.BytesIO()
    assert jobset.export(file, format) == 6
    begins = {"jsonl": b'{"job_id"', "parquet": b"PAR1"}
    assert file.getvalue().startswith(begins.get(format, b"job_id,state,"))


def test_half_an_export_is_none(jobset, address, tmp_path, monkeypatch):
    path = tmp_path / "jobs.csv"
    path.write_text("from before")
    for kind, call in [
        (InvalidValue, lambda: jobset.export(tmp_path / "jobs.xls")),
        (InvalidValue, lambda: jobset.export(tmp_path / "jobs")),
        (InvalidValue, lambda: jobset.export(path, "xls")),
        (InvalidValue, lambda: jobset.export(path, [])),
        (InvalidType, lambda: jobset.export(3)),
        (OSError, lambda: jobset.export(tmp_path / "none" / "jobs.csv")),
        (JobsetNotFound, lambda: Jobset("absent", **address).export(path)),
    ]:
        with pytest.raises(kind):
            call()

    whole = jobset._rows

    def rows(*arguments):
        yield next(whole(*arguments))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobset, "_rows", rows)
        with pytest.raises(KeyboardInterrupt):
            jobset.export(path)
    # None in sys.modules: as if it were not installed.
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackage, match=r"pip install 'workerbee\[parquet\]'"):
        jobset.export(path, "parquet")
    assert path.read_text() == "from before"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_come_and_go(jobset):
    assert jobset.add(map(str, range(60_000))).added == 60_000
    for format in ("csv", "jsonl"):
        with open(os.devnull, "wb") as file:  # noqa: PTH123
            tracemalloc.start()
            assert jobset.export(file, format) == 60_006
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 8e6
