"""Which database, and as whom: the arguments, then libpq's environment, then the embedded server."""

from __future__ import annotations

import contextlib
import numbers
import os
import pwd
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from workerbee import embedded
from workerbee.batch import batch_system
from workerbee.errors import DatabaseError, InvalidType, InvalidValue
from workerbee.link import Link, Silence
from workerbee.text import printable, shown

C = TypeVar("C", bound=psycopg2.extensions.connection)

OLDEST_SERVER = 120000  # PostgreSQL 12
ADDRESS_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE")


def _libpq_variables() -> dict[str, str]:
    # In HOME libpq looks for .pgpass and certificates.
    return {name: value for name, value in os.environ.items() if name.startswith("PG") or name == "HOME"}


@dataclass(frozen=True)
class Address:
    """Where the database is: libpq connection `parameters`, kept out of every repr since a password may be in them.

    `variables` are those of the environment that libpq reads beside them, as they were when the address was made: a
    job may set others, for connections of its own.
    """

    parameters: Mapping[str, str] = field(repr=False)
    embedded: bool = False
    variables: Mapping[str, str] = field(default_factory=_libpq_variables, repr=False)

    def __str__(self) -> str:
        if self.embedded:
            return f"the embedded PostgreSQL in {self.parameters['host']}"
        return f"database {self.database} on {self.user}@{self.host}"

    def _value(self, keyword: str, variable: str) -> str | None:
        return printable(self.parameters.get(keyword) or self.variables.get(variable) or "") or None

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
        """There is a password, or a file that may have it: what is in there only libpq finds out."""
        passfile = self.parameters.get("passfile") or os.environ.get("PGPASSFILE") or "~/.pgpass"
        # Not pathlib, which raises for a home that is not known, and for a folder that is closed to us.
        passfile = os.path.expanduser(passfile)  # noqa: PTH111
        return bool(self._value("password", "PGPASSWORD") or self.service) or os.path.exists(passfile)  # noqa: PTH110


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
    given = {
        "host": _text("host", host),
        "port": _port(port),
        "user": _text("user", user),
        "dbname": _text("database", database),
        "password": _text("password", password),
    }
    parameters = {keyword: value for keyword, value in given.items() if value}
    plain = {"host": given["host"], "PGHOST": os.environ.get("PGHOST"), "PGDATABASE": os.environ.get("PGDATABASE")}
    for name, value in plain.items():
        # It would not work, and be shown with the password in it.
        if value and _LIKE_URI.match(value):
            raise InvalidValue(f"{name} looks like a connection URI; give that as database='postgresql://...'")
    named = parameters.keys() - {"password"} or any(os.environ.get(v) for v in ADDRESS_VARIABLES)
    if not named:
        return _embedded_address()
    parameters = {**_connection_string(parameters.pop("dbname", "")), **parameters}
    if pgpass := _text("PGPASS", os.environ.get("PGPASS")):
        parameters.setdefault("password", pgpass)
    return Address(parameters)


def connect(address: Address, name: str) -> psycopg2.extensions.connection:
    """A connection that the server lists as `name`. Raises `DatabaseError`, in one line, without the password."""
    return _connected(psycopg2.extensions.connection, address, name)


def link(address: Address, name: str) -> Link:
    """The same, for one on which no statement can hang; it has no COPY."""
    try:
        return _connected(Link, address, name)
    except DatabaseError as error:
        if not isinstance(error.__context__, Silence):
            raise
    # Of several hosts, libpq leaves one that is silent for the next only when it does the waiting itself.
    found = connect(address, name)
    where = {"host": found.info.host, "hostaddr": "", "port": str(found.info.port)}
    found.close()
    return _connected(Link, replace(address, parameters={**address.parameters, **where}), name)


def _connected(kind: type[C], address: Address, name: str) -> C:
    # Ids are UTF-8, whatever the database keeps them in.
    ours = {"application_name": name[:63], "client_encoding": "UTF8"}
    defaults = {
        "connect_timeout": address.variables.get("PGCONNECT_TIMEOUT") or "10",
        # A peer that went away without a word is noticed within half a minute, not after two hours.
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "25000",
    }
    try:
        dsn = psycopg2.extensions.make_dsn(**{**defaults, **address.parameters, **ours})
        with _environment(address.variables):
            connection = kind(dsn)
    except psycopg2.Error as error:
        raise DatabaseError(f"cannot connect to {address}: {said(error)}") from None
    if connection.server_version < OLDEST_SERVER:
        version = connection.get_parameter_status("server_version")
        connection.close()
        raise DatabaseError(f"{address} runs PostgreSQL {version}; workerbee needs 12 or newer")
    return connection


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    now = _libpq_variables()
    _set_variables(now, variables)
    try:
        yield
    finally:
        _set_variables(variables, now)


def _set_variables(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    if before != after:
        for name in before.keys() - after.keys():
            os.environ.pop(name, None)
        os.environ.update(after)


def refusal(error: psycopg2.Error, address: Address) -> DatabaseError:
    """What a database error that is nobody's bad input means to the user, in one line."""
    if isinstance(error, psycopg2.errors.InsufficientPrivilege):
        return DatabaseError(
            f"user {address.user} lacks a right in {address}: {said(error)} (to set a jobset up takes CREATE "
            "in a schema of the search_path, and TEMPORARY in the database)"
        )
    if isinstance(error, (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedFunction)):
        return DatabaseError(f"{address}: tables of this jobset are gone, somebody has dropped them: {said(error)}")
    return DatabaseError(f"{address}: {said(error)}")


def said(error: psycopg2.Error) -> str:
    """The server's or libpq's words on one line.

    They quote host, user and database, but no password: libpq does that with connection strings that it cannot
    read, and those never get here. (To blot the password out would give away one like 'postgres'.)
    """
    words = error.diag.message_primary or str(error)
    text = "; ".join(line.strip() for line in words.splitlines() if line.strip())
    return printable(text) or type(error).__name__


def _embedded_address() -> Address:
    batch = batch_system()
    if batch:
        raise DatabaseError(
            f"no database address was given, and this process runs under {batch}: each node would start an embedded "
            "server of its own. Give host=... or set PGHOST to a PostgreSQL that all nodes can reach."
        )
    return Address(embedded.start(), embedded=True)


_LIKE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[^=/]*:[^=]*@")
# user:secret@ with an @ or a / in the secret: libpq takes the rest of the secret for the host or the database.
_MISREAD_URI = re.compile(r"[^?]*//[^?]*[@/][^?]*@")


def _connection_string(database: str) -> dict[str, str]:
    # Its text is in no message: there may be a password in it, and where that begins is what went wrong.
    # The rule of libpq's own expand_dbname: a URI, or anything with an equals sign, is a connection string.
    uri = database.startswith(("postgresql://", "postgres://"))
    if not uri and _LIKE_URI.match(database):
        raise InvalidValue("database looks like a connection URI, and does not begin with postgresql://")
    if not uri and "=" not in database:
        return {"dbname": database} if database else {}
    try:
        parsed = {key: str(value) for key, value in psycopg2.extensions.parse_dsn(database).items()}
    except psycopg2.ProgrammingError:
        parsed = None
    if parsed is None or (
        uri and (_MISREAD_URI.match(database) or not re.fullmatch("[0-9,]*", parsed.get("port", "")))
    ):
        raise InvalidValue(
            "database is not a connection URI or string that libpq can read; "
            "in a URI's user and password, the characters : / ? # @ % are written %3A %2F %3F %23 %40 %25"
        )
    return parsed


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    # A database may be a URI, with a password in it.
    what = f"{name} {shown(value)}" if name in ("host", "user") else name
    if not isinstance(value, str):
        raise InvalidType(f"{what} is of type {type(value).__name__}; it must be a str")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidValue(f"{what} holds a lone surrogate; it must be text in UTF-8") from None
    if "\0" in value:
        raise InvalidValue(f"{what} holds a NUL character; no {name} can")
    return value


def _port(port: object) -> str:
    if port is None or (isinstance(port, str) and not port):
        return ""
    allowed = "port must be a number from 1 to 65535"
    if isinstance(port, bool) or not isinstance(port, (str, numbers.Integral)):
        raise InvalidType(f"{allowed}, not {shown(port)}")
    number = int(port) if not isinstance(port, str) or re.fullmatch("[0-9]{1,5}", port) else 0
    if not 1 <= number <= 65535:
        raise InvalidValue(f"{allowed}, not {shown(port)}")
    return str(number)


def _system_user() -> str:
    # As libpq finds it; getpass would go by LOGNAME, which sudo and su leave behind.
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's uid without an entry in passwd
        return str(os.geteuid())
