"""Text made fit for where it goes: a terminal, a log line, a PostgreSQL column."""

from __future__ import annotations

import signal


def printable(text: str, limit: int = 500) -> str:
    """`text` on one line, with nothing in it that could drive a terminal, at most `limit` characters of it."""
    shown = _escaped(text[:limit])
    return shown if len(text) <= limit and len(shown) <= limit else shown[: limit - 1] + "…"


def shortened(text: str, limit: int) -> str:
    """Like `printable`, but leaves out the middle: of a path, both ends tell."""
    shown, half = _escaped(text), limit // 2
    return shown if len(shown) <= limit else f"{shown[: limit - half - 1]}…{shown[-half:]}"


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(value: object, limit: int = 200) -> str:
    """What an error message shows of a value that may be anything; never fails, always on one line."""
    try:
        text = repr(value)
    except Exception:  # the value's own code; also an int of too many digits, or what is nested too deeply
        text = f"<{type(value).__name__}>"
    return printable(text, limit)


def storable(text: str, limit: int) -> str:
    """`text` as PostgreSQL can hold it: no NUL, no lone surrogate, the middle left out beyond `limit` characters."""
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def ending(code: int) -> str:
    """What an exit code says in words: SIGSEGV, or exit code 3."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"


def bytes_shown(number: int) -> str:
    """A number of bytes as people write it: 612 MB, 4.2 GB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"


def fitting(text: str, size: int) -> bytes:
    """As much of `text` as fits into `size` bytes of C."""
    return text.encode("utf-8", "backslashreplace").replace(b"\0", b"")[:size]
