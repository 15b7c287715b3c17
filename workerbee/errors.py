"""What workerbee raises, under one root."""

# ruff: noqa: N818 - each name says what is wrong; a suffix would say it is an error, which it is anyway

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import TracebackType


class WorkerbeeError(Exception):
    """The root of every error that workerbee raises."""


class InvalidValue(WorkerbeeError, ValueError):
    """An argument of the right type whose value cannot be used; the message says what is allowed."""


class InvalidType(WorkerbeeError, TypeError):
    """An argument of the wrong type; the message says what is allowed."""


class JobsetNotFound(WorkerbeeError, LookupError):
    """The jobset does not exist, or there are no `job_ids` to create it."""


class JobNotFound(WorkerbeeError, LookupError):
    """The jobset has no jobs of these ids; the message names some."""


class JobsetInUse(WorkerbeeError):
    """Nodes work on the jobset, so it is not dropped; the message names some."""


class DatabaseError(WorkerbeeError):
    """The database cannot be reached, or does not let us in, or do what a jobset needs."""


class MissingPackage(WorkerbeeError, ImportError):
    """What was asked for takes a package that is not installed; the message says which extra has it."""


class NodeFailed(WorkerbeeError):
    """This node gave up: its bees or its keeper cannot be started, or die before they do anything, or the database
    stays away. The message carries the reason."""


def spare_our_frames() -> None:
    """Let an error that nobody catches end in the caller's line and its one message.

    Only where the interpreter's own excepthook is in force: whoever has set another one wants to see it all.
    """
    if sys.excepthook is not sys.__excepthook__:
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, WorkerbeeError):
            ours = str(Path(__file__).parent)
            frames = [frame for frame in traceback.extract_tb(trace) if not frame.filename.startswith(ours)]
            shown = traceback.format_list(frames)
            said = f"{kind.__module__}.{kind.__qualname__}: {error}\n"
            sys.stderr.write("".join(["Traceback (most recent call last):\n", *shown, said]))
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook
