"""Embarrassingly parallel jobs over PostgreSQL, with a supervisor on every machine."""

import logging

from workerbee.errors import (
    DatabaseError,
    InvalidType,
    InvalidValue,
    JobsetNotFound,
    NodeFailed,
    WorkerbeeError,
)
from workerbee.job import JobsetSummary
from workerbee.postgresql import postgres_jobset

__all__ = [
    "DatabaseError",
    "InvalidType",
    "InvalidValue",
    "JobsetNotFound",
    "JobsetSummary",
    "NodeFailed",
    "WorkerbeeError",
    "postgres_jobset",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
