"""Embarrassingly parallel jobs over PostgreSQL, with a supervisor on every machine."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from workerbee.errors import (
    DatabaseError,
    InvalidType,
    InvalidValue,
    JobNotFound,
    JobsetInUse,
    JobsetNotFound,
    MissingPackage,
    NodeFailed,
    WorkerbeeError,
)

if TYPE_CHECKING:
    from workerbee.job import JobsetSummary
    from workerbee.jobset import Jobset, list_jobsets
    from workerbee.postgresql import postgres_jobset
    from workerbee.telling import NodeEvent

__all__ = [
    "DatabaseError",
    "InvalidType",
    "InvalidValue",
    "JobNotFound",
    "Jobset",
    "JobsetInUse",
    "JobsetNotFound",
    "JobsetSummary",
    "MissingPackage",
    "NodeEvent",
    "NodeFailed",
    "WorkerbeeError",
    "list_jobsets",
    "postgres_jobset",
]

# What takes a database driver is imported when it is first asked for: `workerbee --version` needs none.
_HOMES = {
    "Jobset": "jobset",
    "JobsetSummary": "job",
    "NodeEvent": "telling",
    "list_jobsets": "jobset",
    "postgres_jobset": "postgresql",
}
_MODULES = {"embedded"}

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
