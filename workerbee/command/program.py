"""A command per job, as `--exec` has it: its exit code is the outcome."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
from typing import Any

import click

from workerbee.text import ending, shown

TAIL = 4_000  # bytes of its stderr that are kept for the failure's record
# ${HOME} is the shell's, and {{name}} gives {name}.
PLACEHOLDER = re.compile(r"(?<!\$)\{(?:\{(?P<literal>\w+)\}|(?P<name>[^\W\d]\w*))\}")
OPERATORS = {"|", "||", "&", "&&", "<", ">", ">>", "2>", "2>&1", "|&"}
CODES_FOR_SIGNALS = 128  # and the number: how a shell says that its command died of a signal
PIPE = 65536  # bytes that it holds
LOOK_EVERY = 0.1  # seconds, where no descriptor tells of a process's end


class CommandFailed(subprocess.CalledProcessError):
    """The command did not end with exit code 0."""

    __module__ = "builtins"  # people read its name in failures: there is no use in saying where it is from

    def __str__(self) -> str:
        code = self.returncode
        words = ending(code)
        if code > CODES_FOR_SIGNALS and not ending(CODES_FOR_SIGNALS - code).startswith("signal"):
            words += f" ({ending(CODES_FOR_SIGNALS - code)})"
        last = self.stderr.decode("utf-8", "backslashreplace").strip().rpartition("\n")[2].strip()
        return f"{words}: {last}" if last else words


class Program:
    """A job function that runs the command `template`, with `{job_id}` and `{key}` for the keys of the job's data.

    Without a shell, each word of it is one argument, whatever the values hold. With `shell`, values get to it as
    parameters, so that nothing in them is code, inside quotes or outside.
    """

    def __init__(self, template: str, shell: bool) -> None:
        self._template = template
        self._shell = shell

    def check(self) -> None:
        """Raise `click.UsageError` if it can never run here."""
        try:
            words = ["/bin/sh"] if self._shell else shlex.split(self._template)
        except ValueError as error:
            raise click.UsageError(f"--exec {shown(self._template)}: {error}") from None
        if not words:
            raise click.UsageError("--exec is empty")
        if operators := OPERATORS.intersection(words):
            raise click.UsageError(f"--exec: {min(operators)} means nothing without a shell; there is --shell")
        if not PLACEHOLDER.search(words[0]) and shutil.which(words[0]) is None:
            raise click.UsageError(f"--exec: there is no command {shown(words[0])}")

    def __call__(self, job_id: str, data: dict[str, Any]) -> None:
        values = {**data, "job_id": job_id}
        words = self._shell_words(values) if self._shell else self._words(values)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            tail = _pass_on(process)
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            if process.stderr:
                process.stderr.close()
        if code:
            raise CommandFailed(code, words, stderr=tail)

    def _words(self, values: dict[str, Any]) -> list[str]:
        return [PLACEHOLDER.sub(lambda found: _value(found, values), word) for word in shlex.split(self._template)]

    def _shell_words(self, values: dict[str, Any]) -> list[str]:
        """The words that run the template in a shell, the values as its parameters $1, $2, ..."""
        parameters: list[str] = []
        pieces: list[str] = []
        quote = ""
        end = 0
        for found in PLACEHOLDER.finditer(self._template):
            before = self._template[end : found.start()]
            end = found.end()
            quote = _open_quote(before, quote)
            value = _value(found, values)
            if found["literal"]:
                pieces += [before, value]
                continue
            parameters.append(value)
            parameter = f"${{{len(parameters)}}}"
            # Within '...' the quote is closed for the parameter, and opened again.
            quoted = {"": f'"{parameter}"', '"': parameter, "'": f"'\"{parameter}\"'"}[quote]
            pieces += [before, quoted]
        return ["/bin/sh", "-c", "".join([*pieces, self._template[end:]]), "workerbee", *parameters]


def _open_quote(text: str, quote: str) -> str:
    """The quote that is open after `text`, as the shell reads it, if `quote` is open before it."""
    escaped = False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
    return quote


def _value(found: re.Match[str], values: dict[str, Any]) -> str:
    if found["literal"]:
        return f"{{{found['literal']}}}"
    name = found["name"]
    if name not in values:
        raise LookupError(f"--exec names {{{name}}}, and the job's data have no {shown(name)}")
    value = values[name]
    text = value if isinstance(value, str) else json.dumps(value)
    if "\0" in text:
        raise ValueError(f"{{{name}}} holds a NUL character, which no command can be given")
    return text


def _pass_on(process: subprocess.Popen[bytes]) -> bytes:
    """Pass on what the command writes to its stderr until it has ended; the last of it."""
    assert process.stderr is not None
    fd = process.stderr.fileno()
    os.set_blocking(fd, False)
    tail = b""
    # What it leaves running may hold its stderr for ever: its own end counts.
    pidfd = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else None
    wait_for = [fd] if pidfd is None else [fd, pidfd]
    try:
        ended = False
        while not ended:
            select.select(wait_for, [], [], LOOK_EVERY if pidfd is None else None)
            ended = process.poll() is not None
            # As much as the pipe holds: all that was written before the end.
            piece = _read(fd)
            if piece == b"":
                break
            if piece:
                tail = (tail + piece)[-TAIL:]
                sys.stderr.buffer.write(piece)
                sys.stderr.flush()
    finally:
        if pidfd is not None:
            os.close(pidfd)
    return tail


def _read(fd: int) -> bytes | None:
    try:
        return os.read(fd, PIPE)
    except BlockingIOError:
        return None
