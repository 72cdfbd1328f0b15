"""MLflow's store behind `fast+` against the plain one: clients of MLflow, direct and by a server.

    python -m benchmarks.fast_store [--rounds 5] [--calls 300] [--batches 20] [--seconds 4]
        [--clients 64] [--workers N] [--only direct,batches,single,clients]
        [--database sqlite,postgresql]

Both stores are measured in turns in one run, each in a database and a server of its own.

- direct: one client's `mlflow.log_metric`, without a server, each time in a process of its own
- batches: `MlflowClient.log_batch` of 1,000 metrics through a server: 1 worker on SQLite, 4 on
  PostgreSQL, or as many as --workers says
- single: one client's `mlflow.log_metric` through such a server, in a process of its own
- clients: as many connections at once, each logging 10 metrics a request to a run of its own,
  through such a server. They are threads of one process with `http.client`, which take less of the
  cores that they share with the server than MLflow's client would; the requests are those of
  `log_metrics`.

The ratio is that within one round: its median, and its range.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.common import in_turns, load, median, percentile, private_place, row, stopwatch
from tests.support.postgres import postgres_server
from tests.support.processes import mlflow_server

PREFIXES = {"plain": "", "fast": "fast+"}
WORKERS = {"sqlite": 1, "postgresql": 4}
KEYS, BATCH = 10, 1000
SETTLING_S = 20
"""A server starts helpers of its own, which keep the cores busy for a while."""


def main() -> None:
    options = _options()
    with private_place() as folder:
        if "direct" in options.only:
            for database in options.database:
                with _stores(database, folder / "direct") as uris:
                    direct(uris, database, options)
        for database in options.database:
            if set(options.only) & {"batches", "single", "clients"}:
                workers = options.workers or WORKERS[database]
                with _servers(database, folder / database, workers) as urls:
                    served(urls, f"{database}, {workers} workers", options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in {
        "rounds": 5, "calls": 300, "batches": 20, "seconds": 4, "clients": 64, "workers": 0
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    names: Callable[[str], list[str]] = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--only", type=names, default=["direct", "batches", "single", "clients"])
    parser.add_argument("--database", type=names, default=list(WORKERS))
    return parser.parse_args()


@contextlib.contextmanager
def _stores(database: str, folder: Path) -> Iterator[dict[str, str]]:
    """Native URIs of two databases, which need not exist yet."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if database == "sqlite":
            yield {name: f"sqlite:///{folder / name}.db" for name in PREFIXES}
        else:
            yield {name: stack.enter_context(postgres_server()) for name in PREFIXES}


@contextlib.contextmanager
def _servers(database: str, folder: Path, workers: int) -> Iterator[dict[str, str]]:
    """URLs of a plain server and of a fast one."""
    with _stores(database, folder) as uris, contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(
                mlflow_server(folder / name, workers=workers, uri=PREFIXES[name] + uri)
            )
            for name, uri in uris.items()
        }


CLIENT = """
import sys, time
import mlflow

calls = int(sys.argv[1])
with mlflow.start_run():
    mlflow.log_metric("loss", 0.5)
    begin = time.perf_counter()
    for _ in range(calls):
        mlflow.log_metric("loss", 0.5)
    print((time.perf_counter() - begin) / calls * 1000)
"""


def direct(uris: dict[str, str], database: str, options: argparse.Namespace) -> None:
    def log(name: str) -> float:
        return _milliseconds_of_a_call(PREFIXES[name] + uris[name], options.calls)

    log("plain"), log("fast")  # The first ones make the tables.
    taken = in_turns({name: partial(log, name) for name in PREFIXES}, options.rounds)
    show(f"direct mlflow.log_metric, {database}", "ms a call", taken, faster_is="less")


def _milliseconds_of_a_call(uri: str, calls: int) -> float:
    env = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    command = [sys.executable, "-c", CLIENT, str(calls)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    # A client of a server prints the run's address as well.
    return float(done.stdout.split()[0])


def served(urls: dict[str, str], server: str, options: argparse.Namespace) -> None:
    """Measure a plain and a fast server; ``server`` says in a few words what they are."""
    runs = {name: _runs(url, options.clients) for name, url in urls.items()}
    time.sleep(SETTLING_S)
    if "batches" in options.only:
        seconds = in_turns(
            {
                name: partial(_log_batches, url, runs[name][0], options)
                for name, url in urls.items()
            },
            options.rounds,
        )
        points = options.batches * BATCH
        rates = {name: [points / second for second in taken] for name, taken in seconds.items()}
        show(f"log_batch of {BATCH}, {server}", "points/s", rates)
    if "single" in options.only:
        calls = {
            name: partial(_milliseconds_of_a_call, url, options.calls) for name, url in urls.items()
        }
        taken = in_turns(calls, options.rounds)
        show(f"mlflow.log_metric, {server}", "ms a call", taken, faster_is="less")
    if "clients" in options.only:
        latencies: dict[str, list[float]] = {name: [] for name in urls}

        def rate(name: str) -> float:
            begin = time.perf_counter()
            found = _clients(urls[name], runs[name], options.seconds)
            latencies[name].append(percentile(found, 99) * 1e3)
            # The last answers come later than that.
            return len(found) / (time.perf_counter() - begin)

        rates = in_turns({name: partial(rate, name) for name in urls}, options.rounds)
        title = f"{options.clients} clients x {KEYS} metrics, {server}"
        show(title, "requests/s", rates)
        show(title, "p99 in ms", latencies, faster_is="less")


def _runs(url: str, count: int) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(url)
    return [client.create_run("0").info.run_id for _ in range(count)]


def _log_batches(url: str, run_id: str, options: argparse.Namespace) -> float:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client, at = MlflowClient(url), time.time_ns() // 1_000_000
    batches = [
        [Metric(f"key_{n % KEYS}", n / 7, at, number * BATCH + n) for n in range(BATCH)]
        for number in range(options.batches)
    ]
    client.log_batch(run_id, batches[0])
    return stopwatch(lambda: [client.log_batch(run_id, metrics) for metrics in batches])


def _clients(url: str, runs: list[str], seconds: int) -> list[float]:
    """Seconds of each request that clients made in so many seconds, each client its own run."""
    address = urlsplit(url).netloc
    until = time.monotonic() + seconds
    found: list[list[float]] = [[] for _ in runs]
    threads = [
        threading.Thread(target=_client, args=(address, run_id, until, times))
        for run_id, times in zip(runs, found, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [second for times in found for second in times]


def _client(address: str, run_id: str, until: float, times: list[float]) -> None:
    connection = http.client.HTTPConnection(address, timeout=120)
    headers = {"Content-Type": "application/json"}
    step = time.time_ns() // 1_000
    while time.monotonic() < until:
        step += 1
        at = time.time_ns() // 1_000_000
        metrics = [
            {"key": f"key_{n}", "value": n / 7, "timestamp": at, "step": step} for n in range(KEYS)
        ]
        body = json.dumps({"run_id": run_id, "metrics": metrics})
        begin = time.perf_counter()
        connection.request("POST", "/api/2.0/mlflow/runs/log-batch", body, headers)
        response = connection.getresponse()
        answer = response.read()
        times.append(time.perf_counter() - begin)
        if response.status != 200:
            raise SystemExit(f"the server answered {response.status}: {answer[:300]!r}")
    connection.close()


def show(title: str, unit: str, figures: dict[str, list[float]], faster_is: str = "more") -> None:
    """A line: the medians of both, and the median and the range of the ratio within a round."""
    pairs = zip(figures["plain"], figures["fast"], strict=True)
    ratios = [fast / plain if faster_is == "more" else plain / fast for plain, fast in pairs]
    row(f"{title}, {load()}", f"plain {unit}", f"fast {unit}", "ratio", "range")
    row(
        "",
        *(f"{median(figures[name]):,.2f}" for name in PREFIXES),
        f"{median(ratios):.2f}",
        f"{min(ratios):.2f}-{max(ratios):.2f}",
    )


if __name__ == "__main__":
    main()
