"""The tables of a jobset held against each other, at one instant, while others write to them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import psycopg2

SEEN = """
    SELECT (SELECT total FROM wb_jobsets WHERE jobset_id = %(id)s),
           (SELECT coalesce(array_agg(pos || state), '{{}}') FROM wb__{id}),
           (SELECT coalesce(array_agg(pos), '{{}}') FROM
               (SELECT generate_series(lo, hi) AS pos FROM wb_ranges__{id}
                UNION ALL SELECT generate_series(lo, hi) FROM wb_claims__{id} WHERE lo > 0) held),
           (SELECT coalesce(array_agg(pos), '{{}}') FROM wb_failures WHERE jobset_id = %(id)s AND final)
"""


def wrong(parameters: Mapping[str, Any], jobset_id: str) -> list[str]:
    """What does not agree at this instant: the counters are to equal the rows by state."""
    connection = psycopg2.connect(**parameters)
    try:
        with connection.cursor() as cursor:
            # One statement, one snapshot.
            cursor.execute(SEEN.format(id=jobset_id), {"id": jobset_id})
            ((total, rows, held, finals),) = cursor.fetchall()
    finally:
        connection.close()
    pos = {state: set() for state in ("PENDING", "COMPLETE", "FAILED")}
    for row in rows:
        state = row.lstrip("0123456789")
        pos[state].add(int(row.removesuffix(state)))
    found = []
    if total != len(rows) or set().union(*pos.values()) != set(range(1, total + 1)):
        found.append(f"the total is {total}, and there are {len(rows)} rows")
    twice = [one for one, times in Counter(held).items() if times > 1]
    if twice:
        found.append(f"{len(twice)} positions are in two ranges or claims: {twice[:5]}")
    if set(held) != pos["PENDING"]:
        found.append(f"pending by ranges and claims, not by state: {sorted(set(held) ^ pos['PENDING'])[:5]}")
    if sorted(finals) != sorted(pos["FAILED"]):
        found.append(f"{len(finals)} final failures, {len(pos['FAILED'])} FAILED jobs")
    return found


class Auditor:
    """Looks again and again while the block runs; at its end, all it saw must have agreed."""

    def __init__(self, parameters: Mapping[str, Any], jobset_id: str) -> None:
        self._arguments = parameters, jobset_id
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.looks = 0
        self._found: list[str] = []

    def _look(self) -> None:
        while not self._over.is_set():
            self._found += wrong(*self._arguments)
            self.looks += 1

    def __enter__(self) -> Auditor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert self._found == []
        assert self.looks > 0
