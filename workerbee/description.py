"""What an exception that a job raised says of itself. Its words are the user's code again, and may raise in turn."""

from __future__ import annotations

import subprocess
import traceback
from collections.abc import Callable

from workerbee.job import Failure, Kind
from workerbee.text import storable

MESSAGE_LIMIT = 4_000  # characters of a failure record
STACK_LIMIT = 16_000


class Interrupted(BaseException):
    """Raised inside a job, or a pause, by whoever stops the bee at once: no outcome of the job."""


def describe(error: BaseException, log: str = "") -> Failure:
    """What `error`, raised by a job, says of itself and where it came from; `log` is the end of the job's output."""
    kind = type(error)
    # Without our own frame, the one that made the call.
    trace = error.__traceback__ and error.__traceback__.tb_next
    name = _said(lambda: f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."), "its class's name")
    message = _said(lambda: str(error), "its __str__")
    # Not isinstance(), which asks the error what it is.
    if issubclass(kind, subprocess.CalledProcessError) and not log:
        log = _said(lambda: _text(getattr(error, "stderr", "")), "its stderr")
    stack = _said(lambda: "".join(traceback.format_exception(kind, error, trace)), "no traceback: formatting it")
    return Failure(
        Kind.ERROR,
        storable(name, 200),
        storable(message, MESSAGE_LIMIT),
        storable(stack, STACK_LIMIT),
        log=storable(log, STACK_LIMIT),
    )


def _text(output: object) -> str:
    return output.decode("utf-8", "backslashreplace") if isinstance(output, bytes) else str(output or "")


def _said(read: Callable[[], str], what: str) -> str:
    try:
        return str.__str__(read())
    except Interrupted:
        raise
    except BaseException as error:  # user code, SystemExit included: the error matters more than its words
        name = type.__dict__["__name__"].__get__(type(error))  # past a metaclass that lies
        return f"<{what} raised {name}>"
