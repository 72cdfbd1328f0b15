"""A progress line on stderr, for people only."""

from __future__ import annotations

from mlflow_wandb_plugin.backfill.engine import Listener, Outcome


class ProgressBar(Listener):
    """Runs and points as they are carried; nothing where stderr is no terminal.

    Args:
        runs, points: how many are expected, where that is known: then there is an ETA.
    """

    def __init__(self, runs: int | None = None, points: int | None = None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:>6}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._runs = self._progress.add_task("runs", total=runs, rate="")
        self._points = self._progress.add_task("points", total=points, rate="")

    def points(self, count: int) -> None:
        speed = self._progress.tasks[1].speed
        rate = f"{speed:,.0f} points/s" if speed else ""
        self._progress.update(self._points, advance=count, rate=rate)

    def run_done(self, outcome: Outcome) -> None:
        self._progress.update(self._runs, advance=1)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
