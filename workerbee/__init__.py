"""Embarrassingly parallel jobs over PostgreSQL, with a supervisor on every machine."""

import logging

from workerbee.errors import (
    DatabaseError,
    InvalidType,
    InvalidValue,
    JobNotFound,
    JobsetInUse,
    JobsetNotFound,
    NodeFailed,
    WorkerbeeError,
)
from workerbee.job import JobsetSummary
from workerbee.jobset import Jobset, list_jobsets
from workerbee.postgresql import postgres_jobset

__all__ = [
    "DatabaseError",
    "InvalidType",
    "InvalidValue",
    "JobNotFound",
    "Jobset",
    "JobsetInUse",
    "JobsetNotFound",
    "JobsetSummary",
    "NodeFailed",
    "WorkerbeeError",
    "list_jobsets",
    "postgres_jobset",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
