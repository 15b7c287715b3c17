"""Text made fit for where it goes: a terminal, a log line, a PostgreSQL column."""

from __future__ import annotations

import signal


def printable(text: str, limit: int = 500) -> str:
    """`text` on one line, with nothing in it that could drive a terminal, at most `limit` characters of it."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:limit])
    return shown + "…" if len(text) > limit else shown


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
