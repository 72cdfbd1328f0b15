"""The same runs written by four: this project, MLflow's log_batch, wandb-to-mlflow, the driver.

A benchmark's run is columns of numbers. Each peer gets it in the shape that its own reader would
give it: this project blocks of series, wandb-to-mlflow rows as dicts, the others what they need.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.common import in_turns, show, stopwatch
from mlflow_wandb_plugin.core.protocols import Source

BLOCK_ROWS = 10_000
BEGIN_MS = 1_700_000_000_000
OURS = "this project"


@dataclass(frozen=True)
class BenchRun:
    """One run: every key has a value at every step."""

    run_id: str
    values: Mapping[str, list[float]]
    steps: list[int]
    times_ms: list[int]

    @property
    def points(self) -> int:
        return len(self.values) * len(self.steps)


def make_runs(runs: int, keys: int, steps: int) -> list[BenchRun]:
    """Runs of random numbers, the same ones each time; a step a second, one run after another."""
    rng = random.Random(0)
    count = list(range(steps))
    return [
        BenchRun(
            f"run{number:04}",
            {f"group/metric_{key}": [rng.random() for _ in count] for key in range(keys)},
            count,
            [BEGIN_MS + 1000 * (number * steps + step) for step in count],
        )
        for number in range(runs)
    ]


# -- this project -------------------------------------------------------------------------


class BenchSource(Source):
    """Runs as a source of this project's yields them."""

    def __init__(self, runs: list[BenchRun]) -> None:
        self._runs = {run.run_id: run for run in runs}

    def runs(self, selection: Any) -> Iterator[Any]:
        for run in self._runs.values():
            yield _info(run, "running")

    def size(self, run: Any) -> Any:
        from mlflow_wandb_plugin.core.model import Size

        return Size(points=self._runs[run.run_id].points)

    def read(self, info: Any, since: Any) -> Iterator[Any]:
        from mlflow_wandb_plugin.core.model import Checkpoint, Series

        run = self._runs[info.run_id]
        for start in range(0, len(run.steps), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            steps, times = run.steps[part], run.times_ms[part]
            for key, values in run.values.items():
                yield Series((key,), steps, times, values[part])
            yield Checkpoint("log", start + len(steps))
        yield _info(run, "finished")


def _info(run: BenchRun, state: Any) -> Any:
    from mlflow_wandb_plugin.core.model import RunInfo

    last = {key: values[-1] for key, values in run.values.items()}
    return RunInfo(
        run.run_id, "bench", "me", name=f"run {run.run_id}", segments=("log",), state=state,
        started_ms=run.times_ms[0], ended_ms=run.times_ms[-1] if state == "finished" else None,
        config={"lr": 0.1, "batch": 32}, first_config={("lr",): 0.1, ("batch",): 32},
        summary=last, last={(key,): value for key, value in last.items()},
        rows={"log": len(run.steps)}, last_step=run.steps[-1], last_ms=run.times_ms[-1],
    )  # fmt: skip


def this_project(uri: str, runs: list[BenchRun], workers: int = 4, path: Any = "auto") -> None:
    """A backfill with the command's defaults."""
    from mlflow_wandb_plugin.backfill.engines.threads import backfill
    from mlflow_wandb_plugin.backfill.options import BackfillOptions
    from mlflow_wandb_plugin.core.model import Selection
    from mlflow_wandb_plugin.core.protocols import TargetOptions
    from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget

    target = MlflowTarget(uri, TargetOptions(write_path=path))
    options = BackfillOptions(workers=workers)
    for outcome in backfill(BenchSource(runs), target, Selection(), options):
        assert outcome.action == "migrated", outcome.reason


# -- MLflow -------------------------------------------------------------------------------


def log_batch(uri: str, runs: list[BenchRun]) -> None:
    """MLflow's client, a thousand points a call, and nothing else."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(uri)
    experiment = client.create_experiment("bench")
    for run in runs:
        created = client.create_run(experiment, run_name=run.run_id)
        run_id = created.info.run_id
        batch = []
        for at, (step, time_ms) in enumerate(zip(run.steps, run.times_ms, strict=True)):
            batch += [Metric(key, values[at], time_ms, step) for key, values in run.values.items()]
            while len(batch) >= 1000:
                client.log_batch(run_id, metrics=batch[:1000])
                del batch[:1000]
        if batch:
            client.log_batch(run_id, metrics=batch)
        client.set_terminated(run_id)


# -- wandb-to-mlflow ----------------------------------------------------------------------


Writer: TypeAlias = Callable[[str, "list[BenchRun]"], None]


def writers(slow: int = 1) -> dict[str, Writer]:
    """Who writes runs to a tracking URI, by name; without the slow ones if ``slow`` is 0."""
    if not slow:
        return {OURS: this_project}
    return {OURS: this_project, "log_batch of 1000": log_batch, **other_tool()}


def other_tool() -> dict[str, Writer]:
    """wandb-to-mlflow, where it is installed."""
    if importlib.util.find_spec("wandb_to_mlflow") is None:
        print("wandb-to-mlflow is not installed: pip install wandb-to-mlflow to compare with it")
        return {}
    return {"wandb-to-mlflow (PyPI)": wandb_to_mlflow}


class _TheirRun:
    """A run as wandb-to-mlflow's own reader shows it to its writer."""

    def __init__(self, run: BenchRun) -> None:
        self._run = run
        self.id, self.name, self.state = run.run_id, f"run {run.run_id}", "finished"
        self.created_at = "2023-11-14T22:13:20Z"
        self.config = {"lr": 0.1, "batch": 32}
        self.summary = {key: values[-1] for key, values in run.values.items()}
        self.tags: list[str] = []
        self.notes = self.group = self.job_type = self.sweep_id = None
        self.url, self.entity, self.project = "", "me", "bench"

    def history(self) -> Iterator[dict[str, Any]]:
        run = self._run
        for at, (step, time_ms) in enumerate(zip(run.steps, run.times_ms, strict=True)):
            row = {key: values[at] for key, values in run.values.items()}
            yield {**row, "_step": step, "_timestamp": time_ms / 1000}


class _TheirProject:
    entity, project = "me", "bench"

    def __init__(self, runs: list[BenchRun]) -> None:
        self._runs = runs

    def runs(self) -> Iterator[_TheirRun]:
        return map(_TheirRun, self._runs)


def wandb_to_mlflow(uri: str, runs: list[BenchRun]) -> None:
    """The writing half of the package, by its own entry point, with its default options."""
    from mlflow import MlflowClient
    from wandb_to_mlflow.migrate import MigrateOptions, Migrator

    logging.getLogger("wandb_to_mlflow").setLevel(logging.ERROR)
    project: Any = _TheirProject(runs)
    result = Migrator(MlflowClient(uri), MigrateOptions()).migrate_project(project)
    assert result.ok, result.failures


# -- the limit: the database's driver alone ------------------------------------------------


def _rows(run: BenchRun, run_id: str) -> Iterator[tuple[Any, ...]]:
    for key, values in run.values.items():
        yield from zip(
            repeat(key), values, run.times_ms, run.steps, repeat(False), repeat(run_id),
            strict=False,
        )  # fmt: skip


def raw_sqlite(uri: str, runs: list[BenchRun]) -> None:
    """`sqlite3.executemany` into MLflow's own table, one transaction."""
    insert = (
        "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?,?,?,?,?,?)"
    )
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        for run in runs:
            rows = list(_rows(run, run.run_id))
            database.executemany(insert, rows)
        database.commit()


def raw_copy(uri: str, runs: list[BenchRun]) -> None:
    """`COPY` into MLflow's own table, one transaction. A run's row is there: a foreign key asks."""
    import io

    import psycopg2

    with closing(psycopg2.connect(uri.replace("+psycopg2", ""))) as database:
        with database.cursor() as cursor:
            for run in runs:
                cursor.execute(
                    "INSERT INTO runs (run_uuid, lifecycle_stage) VALUES (%s, 'active')",
                    (run.run_id,),
                )
                lines = io.StringIO()
                for key, value, at, step, _, run_id in _rows(run, run.run_id):
                    lines.write(f"{key}\t{value!r}\t{at}\t{step}\tf\t{run_id}\n")
                lines.seek(0)
                cursor.copy_expert(
                    "COPY metrics (key, value, timestamp, step, is_nan, run_uuid) FROM STDIN",
                    lines,
                )
        database.commit()


def mysql_connection(uri: str) -> Any:
    """PyMySQL's connection to the database of a tracking URI."""
    import pymysql
    from sqlalchemy import make_url

    url = make_url(uri)
    return pymysql.connect(
        host=url.host or "", port=url.port or 3306, user=url.username,
        password=url.password or "", database=url.database,
    )  # fmt: skip


def raw_mysql(uri: str, runs: list[BenchRun]) -> None:
    """PyMySQL's `executemany` into MLflow's own table, one transaction; it makes long statements
    of the rows. A run's row is there: a foreign key asks."""
    insert = (
        "INSERT INTO metrics (`key`, value, timestamp, step, is_nan, run_uuid) "
        "VALUES (%s,%s,%s,%s,%s,%s)"
    )
    with closing(mysql_connection(uri)) as database:
        with database.cursor() as cursor:
            for run in runs:
                cursor.execute(
                    "INSERT INTO runs (run_uuid, lifecycle_stage) VALUES (%s, 'active')",
                    (run.run_id,),
                )
                cursor.executemany(insert, list(_rows(run, run.run_id)))
        database.commit()


# -- databases ----------------------------------------------------------------------------


def check(uri: str, points: int) -> None:
    """Every point is there: a writer that is fast because it loses some is no writer.

    Another tool may add points of its own (wandb-to-mlflow's ``final.*``).
    """
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:
        key = sqlalchemy.column("key")
        query = sqlalchemy.select(sqlalchemy.func.count()).select_from(sqlalchemy.table("metrics"))
        found = connection.execute(query.where(key.like("group/%"))).scalar()
    engine.dispose()
    assert found == points, f"{found} of {points} points in {uri.partition('://')[0]}"


def race(
    options: argparse.Namespace,
    new: Callable[[], str],
    limit: Mapping[str, Callable[[str, list[BenchRun]], None]],
    where: str,
) -> None:
    """Let all writers, and the driver alone, write the same runs, and show who was how fast.

    Args:
        new: gives the URI of an empty MLflow database each time.
        limit: the driver alone, by the name that the table shows.
        where: the database's name in the title.
    """
    runs = make_runs(options.runs, options.keys, options.steps)
    points = sum(run.points for run in runs)

    def time_writer(write: Callable[[str, list[BenchRun]], None]) -> float:
        uri = new()
        seconds = stopwatch(lambda: write(uri, runs))
        check(uri, points)
        return seconds

    entrants = writers(options.peers) | limit
    taken = in_turns(
        {name: partial(time_writer, write) for name, write in entrants.items()}, options.rounds
    )
    shape = f"{options.runs} runs x {options.keys} keys x {options.steps} steps"
    show(f"{shape} into {where}", points, taken, OURS)


class SqliteStores:
    """Empty MLflow databases, one after another."""

    def __init__(self, folder: Path) -> None:
        from tests.support.stores import make_template

        self._folder = folder
        self._template = make_template(folder / "template.db")
        self._count = 0

    def new(self) -> str:
        from tests.support.stores import copy_store

        self._count += 1
        return copy_store(self._template, self._folder / f"store{self._count}.db")

    def drop(self, uri: str) -> None:
        Path(uri.removeprefix("sqlite:///")).unlink()
