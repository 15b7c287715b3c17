"""The SQL shelf: every query of `sql/*.sql` under its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.resources import files

from psycopg2 import sql

# jobset_ids longer than this would give a table a name that PostgreSQL cuts off.
MAX_JOBSET_ID = 63 - len("wb_ranges__")


def identifiers(jobset_id: str) -> dict[str, str]:
    """The names of a jobset's own tables, constraints and function.

    All but the jobs' own begin with `wb_` and a letter, and every constraint is named here: an index shares the
    name space of tables, so a name that PostgreSQL made up from one jobset's id could be another's table.
    """
    prefixes = {
        "jobs": "wb__",
        "jobs_pos": "wb_pos__",
        "jobs_id": "wb_id__",
        "ranges": "wb_ranges__",
        "ranges_key": "wb_rkey__",
        "claims": "wb_claims__",
        "claims_key": "wb_ckey__",
        "view": "wb_jobs__",
        "next": "wb_next__",
    }
    return {name: prefix + jobset_id for name, prefix in prefixes.items()}


@cache
def shelf() -> Mapping[str, sql.SQL]:
    """All queries by name. In the files each stands under a `-- name:` line and a sentence on what it is for."""
    queries = {}
    for file in sorted(files("workerbee").joinpath("sql").iterdir(), key=lambda file: file.name):
        _, *parts = re.split(r"^-- name: (\w+)\n", file.read_text("utf-8"), flags=re.MULTILINE)
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            queries[name] = sql.SQL(re.sub(r"^--.*\n", "", text, flags=re.MULTILINE).strip())
    return queries


@lru_cache(maxsize=1)
def composed(jobset_id: str) -> Mapping[str, sql.Composed]:
    """All queries, with the tables of `jobset_id` in their places."""
    names = {name: sql.Identifier(value) for name, value in identifiers(jobset_id).items()}
    return {name: query.format(**names) for name, query in shelf().items()}
