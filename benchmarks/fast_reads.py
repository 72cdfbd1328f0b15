"""Reads of a fast store against MLflow's own, of two databases with the same rows.

    python -m benchmarks.fast_reads [--rounds 5] [--points 1000000] [--runs 100]

- history: a page of 25,000 points of a metric's history (the largest that a client gets), of a run
  with so many points in 10 metrics
- search: a page of so many runs, each with 50 metrics, 30 params and 10 tags: what MLflow's UI and
  `search_runs` ask for
- the same two by MLflow's client, through `mlflow server` with 1 worker

The ratio is that within one round: its median, and its range.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import arguments, in_turns, private_place, stopwatch
from benchmarks.fast_store import PREFIXES, SETTLING_S, show
from tests.support.processes import mlflow_server

PAGE, METRICS, PARAMS, TAGS, KEYS = 25_000, 50, 30, 10, 10


def main() -> None:
    options = arguments(__doc__, rounds=5, points=1_000_000, runs=100)
    with private_place() as folder, contextlib.ExitStack() as stack:
        run_id, experiment_id = _fill(folder / "plain.db", options)
        shutil.copyfile(folder / "plain.db", folder / "fast.db")
        uris = {name: f"{PREFIXES[name]}sqlite:///{folder / name}.db" for name in PREFIXES}
        urls = {
            name: stack.enter_context(mlflow_server(folder / name, workers=1, uri=uri))
            for name, uri in uris.items()
        }
        time.sleep(SETTLING_S)
        for way, places in (("direct", uris), ("server", urls)):
            for what, read in (
                ("history", partial(_history, run_id)),
                ("search", partial(_search, experiment_id, options.runs)),
            ):
                peers = {
                    name: partial(stopwatch, partial(read, _store(place)))
                    for name, place in places.items()
                }
                seconds = in_turns(peers, options.rounds)
                taken = {name: [second * 1e3 for second in seconds[name]] for name in seconds}
                show(f"{what}, {way}", "ms", taken, faster_is="less")


def _store(uri: str) -> Any:
    from mlflow.tracking._tracking_service.utils import _get_store

    return _get_store(uri)


def _history(run_id: str, store: Any) -> None:
    assert len(store.get_metric_history(run_id, "m1", PAGE)) == PAGE


def _search(experiment_id: str, runs: int, store: Any) -> None:
    from mlflow.entities import ViewType

    found = store.search_runs([experiment_id], "", ViewType.ACTIVE_ONLY, runs)
    assert len(found) == runs
    assert len(found[0].data.metrics) == METRICS


def _fill(database: Path, options: Any) -> tuple[str, str]:
    """Write the rows; returns the ids of the large run, and of the experiment of the others."""
    from mlflow.entities import Param, RunTag
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store: Any = SqlAlchemyStore(f"sqlite:///{database}", str(database.parent))
    large = store.create_run("0", "user", 1, [], "large").info.run_id
    experiment_id = store.create_experiment("many")
    many = [
        store.create_run(experiment_id, "user", number, [], f"run {number}").info.run_id
        for number in range(options.runs)
    ]
    for run_id in many:
        params = [Param(f"p{number}", "value") for number in range(PARAMS)]
        tags = [RunTag(f"t{number}", "value") for number in range(TAGS)]
        store.log_batch(run_id, [], params, tags)
    steps = range(options.points // KEYS)
    with store.engine.begin() as connection:
        cursor = connection.connection.cursor()
        cursor.executemany(
            "INSERT INTO metrics (key, value, timestamp, is_nan, step, run_uuid) "
            "VALUES (?, ?, ?, 0, ?, ?)",
            ((f"m{key}", step / 7, step, step, large) for key in range(KEYS) for step in steps),
        )
        cursor.executemany(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
            "VALUES (?, 0.5, 1, 1, 0, ?)",
            ((f"m{key}", run_id) for run_id in many for key in range(METRICS)),
        )
    store.engine.dispose()
    return large, experiment_id


if __name__ == "__main__":
    main()
