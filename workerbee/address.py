"""Which database, and as whom: the arguments, then libpq's environment, then the embedded server."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from workerbee import embedded
from workerbee.batch import batch_system
from workerbee.errors import DatabaseError, InvalidType, InvalidValue
from workerbee.text import printable

OLDEST_SERVER = 120000  # PostgreSQL 12
ADDRESS_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE")


@dataclass(frozen=True)
class Address:
    """Where the database is: libpq connection `parameters`, kept out of every repr since a password may be in them."""

    parameters: Mapping[str, str] = field(repr=False)
    embedded: bool = False

    def __str__(self) -> str:
        if self.embedded:
            return f"the embedded PostgreSQL in {self.parameters['host']}"
        return f"database {self.database} on {self.user}@{self.host}"

    def _value(self, keyword: str, variable: str) -> str | None:
        return self.parameters.get(keyword) or os.environ.get(variable) or None

    @property
    def service(self) -> str | None:
        return self._value("service", "PGSERVICE")

    @property
    def host(self) -> str:
        host = self._value("host", "PGHOST") or self._value("hostaddr", "PGHOSTADDR")
        port = self._value("port", "PGPORT")
        if host is None and self.service:
            return f"service {self.service}"
        return f"{host or 'local socket'}:{port or 5432}"

    @property
    def user(self) -> str:
        user = self._value("user", "PGUSER")
        return user or (f"service {self.service}" if self.service else _system_user())

    @property
    def database(self) -> str:
        database = self._value("dbname", "PGDATABASE")
        return database or (f"of service {self.service}" if self.service else self.user)

    @property
    def has_password(self) -> bool:
        """A password will be sent, as far as can be told without asking libpq."""
        passfile = Path(self._value("passfile", "PGPASSFILE") or "~/.pgpass").expanduser()
        return bool(self._value("password", "PGPASSWORD")) or passfile.exists()


def resolve(
    host: object = None,
    port: object = None,
    user: object = None,
    database: object = None,
    password: object = None,
) -> Address:
    """The address that the arguments and the environment name; starts the embedded server when they name none.

    `database` may be a connection URI or a libpq connection string; the other arguments go before what it says.
    The password is the argument, else what the connection string says, else PGPASS, else what libpq finds.
    Raises `InvalidType` and `InvalidValue` for arguments that cannot be, `DatabaseError` when there is no address
    and no embedded server either.
    """
    given = {"host": host, "port": _port(port), "user": user, "dbname": database, "password": password}
    for keyword, value in given.items():
        name = "database" if keyword == "dbname" else keyword
        if value is not None and not isinstance(value, str):
            raise InvalidType(f"{name} must be a str, not {type(value).__name__}")
        if isinstance(value, str) and "\0" in value:
            raise InvalidValue(f"{name} holds a NUL character, which no {name} can")
    parameters = {keyword: str(value) for keyword, value in given.items() if value not in (None, "")}
    named = parameters.keys() - {"password"} or any(os.environ.get(v) for v in ADDRESS_VARIABLES)
    if not named:
        return _embedded_address()
    parameters = {**_connection_string(parameters.pop("dbname", "")), **parameters}
    if "password" not in parameters and os.environ.get("PGPASS"):
        parameters["password"] = os.environ["PGPASS"]
    return Address(parameters)


def connect(address: Address, name: str) -> psycopg2.extensions.connection:
    """A connection that the server lists as `name`. Raises `DatabaseError`, in one line, without the password."""
    defaults = {
        "connect_timeout": "10",
        # A peer that went away without a word is noticed within half a minute, not after two hours.
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "25000",
    }
    try:
        dsn = psycopg2.extensions.make_dsn(**{**defaults, **address.parameters, "application_name": name[:63]})
        connection: psycopg2.extensions.connection = psycopg2.connect(dsn)
    except psycopg2.Error as error:
        raise DatabaseError(f"cannot connect to {address}: {said(error, address)}") from None
    if connection.server_version < OLDEST_SERVER:
        version = connection.get_parameter_status("server_version")
        connection.close()
        raise DatabaseError(f"{address} runs PostgreSQL {version}; workerbee needs 12 or newer")
    return connection


def refusal(error: psycopg2.Error, address: Address) -> DatabaseError:
    """What a database error that is nobody's bad input means to the user, in one line."""
    if isinstance(error, psycopg2.errors.InsufficientPrivilege):
        return DatabaseError(f"user {address.user} lacks a right in {address}: {said(error, address)}")
    return DatabaseError(f"{address}: {said(error, address)}")


def said(error: psycopg2.Error, address: Address) -> str:
    """The server's or libpq's words on one line; never the password, even where libpq quotes it."""
    words = error.diag.message_primary or str(error)
    text = "; ".join(line.strip() for line in words.splitlines() if line.strip())
    for secret in {address.parameters.get("password"), os.environ.get("PGPASSWORD")} - {None, ""}:
        text = text.replace(str(secret), "***")
    return printable(text) or type(error).__name__


def _embedded_address() -> Address:
    batch = batch_system()
    if batch:
        raise DatabaseError(
            f"no database address was given, and this process runs under {batch}: each node would start an embedded "
            "server of its own. Give host=... or set PGHOST to a PostgreSQL that all nodes can reach."
        )
    return Address(embedded.start(), embedded=True)


def _connection_string(database: str) -> dict[str, str]:
    # The rule of libpq's own expand_dbname: a URI, or anything with an equals sign, is a connection string.
    if not (database.startswith(("postgresql://", "postgres://")) or "=" in database):
        return {"dbname": database} if database else {}
    try:
        return {key: str(value) for key, value in psycopg2.extensions.parse_dsn(database).items()}
    except psycopg2.ProgrammingError:
        # Not libpq's words: they may quote the part with the password.
        raise InvalidValue("database is not a connection URI or string that libpq can read") from None


def _port(port: object) -> str | None:
    if port is None or port == "":
        return None
    allowed = "port must be a number from 1 to 65535"
    if isinstance(port, bool) or not isinstance(port, (int, str)):
        raise InvalidType(f"{allowed}, not {port!r}")
    text = str(port)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise InvalidValue(f"{allowed}, not {port!r}")
    return text


def _system_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's uid without an entry in passwd
        return str(os.getuid())
