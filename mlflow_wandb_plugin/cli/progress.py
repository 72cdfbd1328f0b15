"""Progress on stderr, where that is a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlflow_wandb_plugin.backfill.outcome import (
    Listener,
    Outcome,
)
from mlflow_wandb_plugin.cli.terminal import console, shows_progress
from mlflow_wandb_plugin.core.messages import printable


class ProgressBar(Listener):
    """Shows the number of runs and points carried; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description:>6}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console(stderr=True),
            disable=not shows_progress(),
            transient=True,
        )
        self._runs = self._progress.add_task("runs", total=None, rate="")
        self._points = self._progress.add_task("points", total=None, rate="")
        self._expected = 0
        self.runs_done = 0
        self._lock = threading.Lock()

    def expect_runs(self, count: int | None) -> None:
        """Set the number of runs, for an estimate of the time left; None if it is not known."""
        self._progress.update(self._runs, total=count)

    def points_expected(self, count: int) -> None:
        """Add the points of one more run; those of runs that have not started are not known."""
        with self._lock:
            self._expected += count
            self._progress.update(self._points, total=self._expected)

    def points(self, count: int) -> None:
        speed = self._progress.tasks[1].speed
        rate = f"{speed:,.0f} points/s" if speed else ""
        self._progress.update(self._points, advance=count, rate=rate)

    def run_done(self, outcome: Outcome) -> None:
        with self._lock:
            self.runs_done += 1
        self._progress.update(self._runs, advance=1)

    def run_verified(self) -> None:
        self._progress.update(self._runs, advance=1)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


@contextmanager
def counted_progress(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show how many of ``total`` things were started, and which one is under way.

    Yields:
        A function to be called with the name of each when it is started.
    """
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(what),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=console(stderr=True),
        disable=not shows_progress(),
        transient=True,
        # Lines for a pipe or a file stay out of the terminal.
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        task = progress.add_task("", total=total)
        yield lambda name: progress.update(task, advance=1, description=printable(name))
