"""A plugin: rules for metrics, which runs are taken, and runs that are read from CSV files.

pip install ./examples/plugin
mlflow-wandb plugins
mlflow-wandb backfill csv:./measurements --to sqlite:///mlflow.db
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from mlflow_wandb_plugin.core.metric_rules import MetricRule
from mlflow_wandb_plugin.core.model import Item, Key, RunInfo, Selection, Series, Size
from mlflow_wandb_plugin.core.protocols import Source, SourceOptions
from mlflow_wandb_plugin.hookspecs import hookimpl


@hookimpl
def map_metric(run: RunInfo, key: Key) -> MetricRule | None:
    """Rename the loss, write accuracies in percent, and drop what is for debugging."""
    if key == ("loss",):
        return MetricRule(name="train/loss")
    if key[0] == "accuracy":
        return MetricRule(name="accuracy_percent", factor=100)
    if key[0].startswith("debug/"):
        return MetricRule(drop=True)
    return None


@hookimpl
def select_run(run: RunInfo) -> bool | None:
    """Leave out runs with the tag ``scratch``."""
    return False if "scratch" in run.tags else None


@hookimpl
def open_source(uri: str, options: SourceOptions) -> Source | None:
    """Read ``csv:FOLDER``; other sources are not ours."""
    return CsvFolder(Path(uri[4:])) if uri.startswith("csv:") else None


class CsvFolder(Source):
    """Each CSV file is a run; its column ``step`` has the steps, ``time`` Unix ms."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        for path in sorted(self._folder.glob("*.csv")):
            times = self._column(path.stem, "time")
            run = RunInfo(
                path.stem, self._folder.name, name=path.stem, segments=(path.stem,),
                state="finished", started_ms=int(times[0]), ended_ms=int(times[-1]),
            )  # fmt: skip
            if selection.takes(run):
                yield run

    def size(self, run: RunInfo) -> Size:
        return Size(points=sum(len(series.values) for series in self._series(run)))

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        last: dict[Key, float] = {}
        for series in self._series(run):
            last[series.key] = series.values[-1]
            yield series
        summary = {".".join(key): value for key, value in last.items()}
        yield replace(run, last=last, summary=summary, last_ms=run.ended_ms)

    def _series(self, run: RunInfo) -> Iterator[Series]:
        with open(self._folder / f"{run.run_id}.csv") as file:
            names = next(csv.reader(file))
        steps = [int(step) for step in self._column(run.run_id, "step")]
        times = [int(time) for time in self._column(run.run_id, "time")]
        for name in names:
            if name not in ("step", "time"):
                yield Series((name,), steps, times, self._column(run.run_id, name))

    def _column(self, run_id: str, name: str) -> list[float]:
        with open(self._folder / f"{run_id}.csv", newline="") as file:
            return [float(row[name]) for row in csv.DictReader(file)]
