"""The other spelling of `workerbee.postgresql`."""

from workerbee.postgresql import postgres_jobset

__all__ = ["postgres_jobset"]
