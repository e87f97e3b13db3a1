"""Progress of a verb on standard error: rate, remaining time and the newest metrics."""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import typer


class VerbProgress:
    """Progress display: a bar with rate and remaining time on a terminal, a line every ten seconds elsewhere."""

    LINE_SECONDS = 10.0

    def __init__(self, label: str) -> None:
        """Create the display for the work named by label."""
        self.label, self.printed_at = label, 0.0
        self.first: tuple[int, float] | None = None
        self.bar: Any = None
        if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
            self.bar = _bar()
            self.task = self.bar.add_task(label, total=None, note="starting")

    def __enter__(self) -> "VerbProgress":
        """Show the bar."""
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop updating the bar."""
        if self.bar is not None:
            with suppress(OSError):  # the terminal may be gone
                self.bar.stop()

    def __call__(self, done: int, total: int, newest: Mapping[str, float]) -> None:
        """Show progress: steps done, total steps (0 if unknown) and the newest metrics."""
        now = time.monotonic()
        note = _note(newest)
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total or None, note=note)
        elif done and now - self.printed_at >= self.LINE_SECONDS:
            self.first = self.first or (done, now)
            self.printed_at = now
            typer.echo(f"{self.label}: step {done}/{total}{_remaining(self.first, done, total, now)}{note}", err=True)


def _note(newest: Mapping[str, float]) -> str:
    from gen_ray.metrics import METRICS

    shown = (metric for metric in METRICS if metric.progress and metric.name in newest)
    return "".join(", " + metric.progress.format(newest[metric.name]) for metric in shown)


def _remaining(first: tuple[int, float], done: int, total: int, now: float) -> str:
    steps, since = done - first[0], now - first[1]
    return f", {(total - done) * since / steps:.0f} s left" if steps else ""


def _bar() -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}{task.fields[note]}", markup=False),
    )
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn())
