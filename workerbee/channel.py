"""The queries of the shelf over one connection, each by its name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg2
import psycopg2.extensions

from workerbee.queries import composed

Connection = psycopg2.extensions.connection


class _Texts(dict[str, str]):
    """The queries of the shelf as text, each from when it is first needed: a bee needs few of them, and soon."""

    def __init__(self, connection: Connection, jobset_id: str) -> None:
        super().__init__()
        self._connection = connection
        self._composed = composed(jobset_id)

    def __missing__(self, name: str) -> str:
        text = self[name] = str(self._composed[name].as_string(self._connection))
        return text


class Channel:
    """What is asked about the jobset `jobset_id` over one `connection`, which it owns and keeps in autocommit mode."""

    def __init__(self, connection: Connection, jobset_id: str) -> None:
        if not connection.async_:
            connection.autocommit = True
        self.connection = connection
        self._cursor: Any = connection.cursor()
        self.jobset_id = jobset_id
        self._queries = _Texts(connection, jobset_id)
        # One on which no answer may be late has statements that end in time, too.
        self._begin = "begin_bounded" if connection.async_ else "begin"
        self._alone = self._queries["bounded"] if connection.async_ else ""
        self._opening: str | None = None  # of a transaction: goes with its first statement, a round trip less
        self._is_isolated = False  # as our statements want it, without a word of ours

    def close(self) -> None:
        self.connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is run inside commits together, or not at all."""
        self._opening = self._queries[self._begin] + "\n"
        try:
            yield
            self.run("commit")
        except BaseException:
            # Without a connection nothing is committed either, and who is told of that needs the first error.
            with contextlib.suppress(psycopg2.Error):
                self.run("rollback")
            raise
        finally:
            self._opening = None

    def run(self, name: str, *, bare: bool = False, **values: Any) -> list[tuple[Any, ...]]:
        """The rows that the query `name` yields; `bare`: it keeps to its time by itself."""
        head = self._take_head(bare)
        self._cursor.execute(head + self._queries[name], {"jobset_id": self.jobset_id, **values})
        return self._cursor.fetchall() if self._cursor.description else []

    def ask(self, name: str, *, bare: bool = False, **values: Any) -> None:
        """Send the query `name` over a link. Whoever does is to read the `answer` before anything else."""
        head = self._take_head(bare)
        self._cursor.send(head + self._queries[name], {"jobset_id": self.jobset_id, **values})

    def answer(self) -> list[tuple[Any, ...]]:
        """The rows of the query that was sent."""
        self._cursor.wait()
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def stream(self, name: str, **values: Any) -> Iterator[tuple[Any, ...]]:
        """The rows that the query `name` yields, all of one instant, and no more than a thousand of them at a time."""
        with self.transaction():
            head = self._take_head() + self._queries["declare_cursor"] + " "
            with self.connection.cursor() as cursor:
                cursor.execute(head + self._queries[name], {"jobset_id": self.jobset_id, **values})
            while rows := self.run("fetch_rows"):
                yield from rows

    def copy(self, name: str, file: Any) -> None:
        """Stream what `file.read()` gives into the query `name`, a COPY; in a transaction not the first statement."""
        with self.connection.cursor() as cursor:
            cursor.copy_expert(self._queries[name], file)

    def _take_head(self, bare: bool = False) -> str:
        """What the next statement is sent with."""
        if self._opening is None:
            return "" if bare and self._is_isolated else self._alone
        opening, self._opening = self._opening, ""
        return opening
