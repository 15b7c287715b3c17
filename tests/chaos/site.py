"""Where a job runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random


@dataclass(frozen=True)
class Site:
    """Where a job runs: `folder` is the round's; `inline`: in the caller's own process; `report` notes a child."""

    job_id: str
    folder: Path
    inline: bool
    report: Callable[[int], None]
    random: Random
