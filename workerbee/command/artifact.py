"""`workerbee export` and `plot`: what one takes away from a jobset."""

from __future__ import annotations

import sys
from typing import Any

import click

from workerbee.command.addressing import takes_address
from workerbee.jobset import Jobset

EXPORT_EXAMPLES = """\b
Examples:
  workerbee export thumbs -o thumbs.parquet
  workerbee export thumbs --format jsonl | jq 'select(.state == "FAILED")'
"""
PLOT_EXAMPLES = """\b
Examples:
  workerbee plot thumbs -o thumbs.svg
  workerbee plot thumbs -o slide.png --width 16 --height 9
"""


@click.command("export", epilog=EXPORT_EXAMPLES)
@click.argument("jobset_id", metavar="JOBSET")
@click.option("-o", "--output", metavar="FILE", help="Write there, in the format of its ending; else to stdout.")
@click.option("--format", "form", type=click.Choice(["csv", "jsonl", "parquet"]), help="The format; csv for stdout.")
@takes_address
def export_command(jobset_id: str, output: str | None, form: Any, address: dict[str, Any]) -> int:
    """Write every job with its state, attempts and timings as CSV, JSON lines or Parquet."""
    if output is None and form == "parquet" and sys.stdout.isatty():
        raise click.UsageError("Parquet is nothing for a terminal: give -o FILE")
    jobset = Jobset(jobset_id, **address)
    number = jobset.export(sys.stdout.buffer if output is None else output, form)
    if output is not None:
        click.echo(f"{number} jobs of jobset '{jobset_id}' written to {output}", err=True)
    return 0


@click.command("plot", epilog=PLOT_EXAMPLES)
@click.argument("jobset_id", metavar="JOBSET")
@click.option("-o", "--output", required=True, metavar="FILE", help="A .png, .svg or .pdf file.")
@click.option("--width", type=float, metavar="INCHES")
@click.option("--height", type=float, metavar="INCHES")
@takes_address
def plot_command(
    jobset_id: str, output: str, width: float | None, height: float | None, address: dict[str, Any]
) -> int:
    """Draw what happened over time: jobs done, their rate, bees alive, failures, how long jobs took."""
    size = {name: value for name, value in (("width", width), ("height", height)) if value is not None}
    Jobset(jobset_id, **address).plot(output, **size)
    click.echo(f"jobset '{jobset_id}' drawn to {output}", err=True)
    return 0
