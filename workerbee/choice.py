"""Which jobs or failures a caller means: checks of what narrows them down."""

from __future__ import annotations

from workerbee.errors import InvalidType, InvalidValue
from workerbee.job import Kind
from workerbee.text import shown


def check_kind(kind: object) -> str | None:
    """A kind of failure, by its name, or None for all."""
    if kind is None:
        return None
    try:
        return Kind(kind).value
    except ValueError:
        allowed = ", ".join(f"'{known.value}'" for known in Kind)
        raise InvalidValue(f"kind must be one of {allowed}, not {shown(kind)}") from None


def check_text(name: str, text: object) -> str | None:
    """Text to look for, or None."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidType(f"{name} must be a str, not {shown(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidValue(f"{name} {shown(text)} holds a lone surrogate; nothing that is stored does") from None
    if "\0" in text:
        raise InvalidValue(f"{name} {shown(text)} holds a NUL character; nothing that is stored does")
    return text


def check_whole(name: str, number: object, least: int) -> int:
    """A number of things, or of one thing."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidType(f"{name} must be a whole number from {least}, not {shown(number)}")
    if not least <= number < 2**63:
        raise InvalidValue(f"{name} must be a whole number from {least}, not {shown(number)}")
    return number
