"""All jobs of a jobset as a file: CSV, JSON lines or Parquet. Rows come and go; no more than some are held at once."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import IO, Any

from workerbee.errors import InvalidType, InvalidValue, MissingPackage
from workerbee.text import shown

# As the query `list_jobs` has them; the data are JSON text.
COLUMNS = ("job_id", "state", "errors", "crashes", "losses", "since", "seconds", "host", "bee", "data")
PIECE = 20_000  # rows that Parquet writes at a time

Row = tuple[Any, ...]


def export(rows: Callable[[], Iterator[Row]], target: str | os.PathLike[str] | IO[bytes], format: str | None) -> int:
    """Write the rows to a path, whose ending says the format if `format` does not, or to an open binary file, as CSV
    unless it says something else. A file of that name is replaced when all are written. How many there were."""
    if not isinstance(target, (str, os.PathLike)):
        if not callable(getattr(target, "write", None)):
            raise InvalidType(f"export takes a path or an open binary file, not {shown(target)}")
        return _writer("csv" if format is None else format)(rows(), target)
    path = Path(target)
    write = _writer(path.suffix.removeprefix(".").lower() if format is None else format)
    found = rows()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            number = write(found, file)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return number


def _writer(format: str) -> Callable[[Iterable[Row], IO[bytes]], int]:
    writers = {"csv": _write_csv, "jsonl": _write_json_lines, "parquet": _write_parquet}
    try:
        return writers[format]
    except (KeyError, TypeError):
        allowed = ", ".join(f"'{name}'" for name in writers)
        raise InvalidValue(f"the format of an export must be one of {allowed}, not {shown(format)}") from None


def _write_csv(rows: Iterable[Row], file: IO[bytes]) -> int:
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=False)
    try:
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        number = 0
        for *head, since, seconds, host, bee, data in rows:
            writer.writerow((*head, _instant(since), seconds, host, bee, data))
            number += 1
        text.flush()
        return number
    finally:
        text.detach()


def _write_json_lines(rows: Iterable[Row], file: IO[bytes]) -> int:
    number = 0
    for *head, since, seconds, host, bee, data in rows:
        job = dict(zip(COLUMNS, (*head, _instant(since), seconds, host, bee, data and json.loads(data)), strict=True))
        file.write(json.dumps(job).encode() + b"\n")
        number += 1
    return number


def _write_parquet(rows: Iterable[Row], file: IO[bytes]) -> int:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingPackage(f"Parquet needs pyarrow: pip install 'workerbee[parquet]' ({error})") from None
    text, count = pa.string(), pa.int32()
    types = (text, text, count, count, count, pa.timestamp("us", "UTC"), pa.float64(), text, pa.int64(), text)
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
    number = 0
    with parquet.ParquetWriter(file, schema) as writer:
        source = iter(rows)
        while piece := list(islice(source, PIECE)):
            columns = [pa.array(column, type) for column, type in zip(zip(*piece, strict=True), types, strict=True)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            number += len(piece)
    return number


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(timezone.utc).isoformat()
