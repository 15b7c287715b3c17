"""A run on a terminal: a bar at the bottom, and above it what happened."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import IO, Any, cast

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from workerbee.board import Board
from workerbee.display import Lines
from workerbee.terminal import Stream, harmless

BAR_EVERY = 0.1  # seconds


class _Measure:
    """All that rich may ask of `sys.stdout`; it writes nothing there, not even nothing: that fails, too."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        """There is nothing to flush."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)


class Screen:
    """The terminal that stdout is: text that scrolls away, and below it a block of lines that is drawn anew.

    The cursor rests at the beginning of the block, so that clearing from there removes all of it, whatever a resize
    has made of its lines. If this process is killed, the shell goes on there, with nothing switched off.
    """

    def __init__(self) -> None:
        self._stream = Stream("stdout")
        self._console = Console(file=cast(IO[str], _Measure()), highlight=False)
        self._shown = ""

    @property
    def width(self) -> int:
        """The characters that a line of the block may have: without the last column, where terminals differ."""
        return max(1, self._console.width - 1)

    def styled(self, line: str, style: str) -> str:
        """`line` in a style, where the terminal has styles."""
        with self._console.capture() as capture:
            self._console.print(Text(line, style=style), soft_wrap=True, end="")
        return capture.get()

    def draw(self, above: str, block: Sequence[RenderableType] = (), last: bool = False) -> None:
        """Write `above`, whole lines, over the old block, and the new block below it; the `last` one stays."""
        block = block[: self._console.height]  # more would scroll away, and could not be cleared
        with self._console.capture() as capture:
            for line in block:
                self._console.print(line, width=self.width, no_wrap=True, overflow="ellipsis", height=1)
        shown = capture.get()
        if block and not last:
            shown = shown.removesuffix("\n") + "\r" + f"\x1b[{len(block) - 1}A" * (len(block) > 1)
        if above or last or shown != self._shown:
            # In one write, or it would flicker.
            self._stream.write(("\r\x1b[J" if self._shown else "") + above + shown)
        self._shown = "" if last else shown


class Bar(Lines):
    """A bar at the bottom of a terminal, and above it what happened and what jobs print."""

    def __init__(self) -> None:
        super().__init__()
        self._screen = Screen()
        self._above: list[str] = []
        self._watching = False

    def out(self, line: str) -> None:
        # Drawn with the next bar: a job may print faster than a bar can be drawn.
        self._above.append(harmless(line) + "\n")

    def err(self, line: str) -> None:
        if self._stderr.is_terminal:
            self.out(line)
        else:
            super().err(line)

    def watch(self, board: Board) -> None:
        super().watch(board)
        self._next = 0.0
        self._watching = True

    def refresh(self) -> float:
        self._tell_held()
        now = time.monotonic()
        if now >= self._next:
            self._next = now + BAR_EVERY
            self._draw()
        return max(0.0, self._next - now)

    def close(self) -> None:
        super().close()
        self._draw(last=True)
        self._watching = False

    def _show(self, line: str, _style: str = "") -> None:
        self._above.append((self._screen.styled(line, _style) if _style else line) + "\n")
        if not self._watching:
            self._draw()

    def _draw(self, last: bool = False) -> None:
        above, self._above = "".join(self._above), []
        self._screen.draw(above, self._block() if self._watching else [], last)

    def _block(self) -> list[RenderableType]:
        progress = self._progress
        if progress is None:
            return []
        bar = ProgressBar(total=1.0, completed=progress.share, width=min(40, self._screen.width // 2))
        row = Table.grid(padding=(0, 1))
        row.add_row(bar, Text(progress.percent), Text(progress.left(), no_wrap=True, overflow="ellipsis"))
        lines: list[RenderableType] = [row, Text(progress.status())]
        if longest := progress.longest(self._screen.width):
            lines.append(Text(longest, style="dim"))
        return lines
