"""A backfill from a W&B server brings a project into MLflow, goes on, and tops up."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import TargetOptions
from mlflow_wandb_plugin.core.replicate import replicate
from mlflow_wandb_plugin.sources.wandb_server.source import WandbServerSource
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.environment import isolated
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import started, wait_until
from tests.support.stores import copy_store
from tests.support.wandb_source import source_of
from tests.wandb_server import WandbServer
from tests.wandb_server.clients import Worker

HISTORY = {"RunParquetHistory", "HistoryPage", "RunFullHistory", "download"}


@pytest.fixture(scope="module")
def wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    with WandbServer(tmp_path_factory.mktemp("wandb")) as running:
        yield running
        assert not running.executor.unknown, "fields that the server does not know"


@pytest.fixture(autouse=True)
def _healthy(wandb: WandbServer) -> Iterator[None]:
    yield
    wandb.heal()


def carry(source: WandbServerSource, uri: str, **options: Any) -> dict[str, Outcome]:
    """Backfill; returns the outcomes by run id."""
    target = MlflowTarget(uri)
    outcomes = backfill(source, target, Selection(), BackfillOptions(**options))
    return {outcome.run.run_id: outcome for outcome in outcomes}


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "_step": i, "_timestamp": 1.7e9 + i, "loss": 1 / (i + 1), "nan": math.nan,
            "n": {"a": i}, "dotted.b": i, "text": f"t{i}",
            **({"rare": i} if i % 10 == 0 else {}),
        }
        for i in range(start, start + count)
    ]  # fmt: skip


def assert_metrics(state: RunState, count: int) -> None:
    """The MLflow run has the points of ``rows(count)``, and no others."""
    at = lambda i: 1_700_000_000_000 + i * 1000  # noqa: E731
    assert state.metrics == {
        "loss": [(1 / (i + 1), at(i), i) for i in range(count)],
        "nan": [("nan", at(i), i) for i in range(count)],
        "n.a": [(float(i), at(i), i) for i in range(count)],
        "dotted.b": [(float(i), at(i), i) for i in range(count)],
        "rare": [(float(i), at(i), i) for i in range(0, count, 10)],
    }


def history(uri: str, run_id: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of an MLflow run's wandb/history.jsonl."""
    from mlflow import MlflowClient

    local = MlflowClient(uri).download_artifacts(run_id, "wandb/history.jsonl", str(folder))
    return [json.loads(line) for line in Path(local).read_text().splitlines()]


@pytest.mark.parametrize("exported", [0, 25, 60])
def test_a_run_arrives_with_what_was_logged(
    wandb: WandbServer, fresh_store: str, tmp_path: Path, exported: int
) -> None:
    """Points, times, texts, files and state are in MLflow, and no point that nobody logged."""
    run = wandb.add_run(
        f"arrives-{exported}", "r1", display_name="first", rows=rows(60), config={"lr": 0.1},
        files={"a/b.txt": b"content", "output.log": b"hello\n"}, tags=["x"],
        created_at="2024-01-01T00:00:00Z", heartbeat_at="2024-01-01T01:00:00Z",
    )  # fmt: skip
    wandb.parquet(run, exported)
    outcome = carry(source_of(wandb, run.project.name), fresh_store)["r1"]
    assert (outcome.verdict, outcome.action, outcome.losses) == ("new", "migrated", {})
    state = read_runs(fresh_store, tmp_path / "artifacts")["r1"]
    assert_metrics(state, 60)
    assert (state.name, state.status, state.params) == ("first", "FINISHED", {"lr": "0.1"})
    assert (state.start, state.end) == (1_704_067_200_000, 1_704_070_800_000)
    assert {"wandb/files/a/b.txt", "wandb/files/output.log"} <= state.artifacts.keys()
    texts = [(row["_step"], row["text"]) for row in history(fresh_store, state.run_id, tmp_path)]
    assert texts == [(i, f"t{i}") for i in range(60)]


def test_a_finished_run_costs_no_history_when_met_again(
    wandb: WandbServer, fresh_store: str
) -> None:
    """The listing tells that it is complete: one request in all."""
    wandb.add_run("again", "r1", rows=rows(30), files={"a": b"a"})
    wandb.add_run("again", "r2", rows=rows(10))
    carry(source_of(wandb, "again"), fresh_store)
    source = source_of(wandb, "again")
    outcomes = carry(source, fresh_store)
    assert {outcome.action for outcome in outcomes.values()} == {"skipped"}
    assert {outcome.verdict for outcome in outcomes.values()} == {"existing"}
    assert source.calls == {"Runs": 1}


def test_a_dual_written_run_whose_config_lacks_the_marker_is_known_and_gets_it(
    wandb: WandbServer, fresh_store: str
) -> None:
    """MLflow answered too late: the run, in another experiment, is not migrated a second time,
    and its W&B config names it from then on; a server that refuses changes nothing of that."""
    runs = [wandb.add_run("unmarked", f"r{n}", rows=rows(5), config={"lr": 1}) for n in range(2)]
    live = MlflowTarget(fresh_store, TargetOptions(experiment="live's"))
    source = source_of(wandb, "unmarked")
    for info in list(source.runs(Selection())):
        writer = live.open(info, "dual")
        replicate(source.read(info, {}), writer)
        writer.close()
    before = read_runs(fresh_store)
    wandb.fail("AddToConfig", status=400)
    for _ in range(2):
        outcomes = carry(source_of(wandb, "unmarked"), fresh_store)
        assert {o.verdict for o in outcomes.values()} == {"dual-written"}
    assert {run_id: run.run_id for run_id, run in read_runs(fresh_store).items()} == {
        run_id: run.run_id for run_id, run in before.items()
    }
    for run in runs:
        twin = before[run.name]
        values = {key: item["value"] for key, item in run.config.items()}
        assert values.pop("mlflow_experiment_id")
        expected = {"lr": 1, "mlflow_run_id": twin.run_id, "mlflow_tracking_uri": fresh_store}
        assert values == expected


def test_without_artifacts_none_is_asked_for(wandb: WandbServer, fresh_store: str) -> None:
    """`--no-artifacts` saves the requests, not only the uploads."""
    wandb.add_run("plain", "p1", rows=rows(3), state="finished")
    before = len(wandb.requests)
    carry(source_of(wandb, "plain", artifacts=False), fresh_store, artifacts=False)
    asked = {request.operation for request in wandb.requests[before:]}
    assert not [name for name in asked if "Artifact" in (name or "")]
    carry(source_of(wandb, "plain"), fresh_store, artifacts=True, existing="update")
    asked = {request.operation for request in wandb.requests[before:]}
    assert [name for name in asked if "Artifact" in (name or "")]


def test_a_running_run_is_topped_up_until_it_ends(
    wandb: WandbServer, fresh_store: str, tmp_path: Path
) -> None:
    """Three visits to a growing run leave what one visit to the finished run leaves."""
    run = wandb.add_run("grows", "r1", rows=rows(20), state="running")
    carry(source_of(wandb, "grows"), fresh_store)
    assert read_runs(fresh_store)["r1"].status == "RUNNING"
    wandb.grow(run, rows(20, 20))
    wandb.parquet(run, 30)
    carry(source_of(wandb, "grows"), fresh_store)
    assert_metrics(read_runs(fresh_store)["r1"], 40)
    wandb.grow(run, rows(20, 40))
    run.state = "finished"
    source = source_of(wandb, "grows")
    outcome = carry(source, fresh_store)["r1"]
    assert outcome.verdict == "partial"
    state = read_runs(fresh_store)["r1"]
    assert_metrics(state, 60)
    assert state.status == "FINISHED"
    texts = [(row["_step"], row["text"]) for row in history(fresh_store, state.run_id, tmp_path)]
    assert texts == [(i, f"t{i}") for i in range(60)]
    assert {o.action for o in carry(source_of(wandb, "grows"), fresh_store).values()} == {"skipped"}


def test_a_finished_run_that_was_resumed_is_taken_up_again(
    wandb: WandbServer, fresh_store: str
) -> None:
    """More rows on the server than in MLflow: the run is no longer complete."""
    run = wandb.add_run("resumed", "r1", rows=rows(10))
    carry(source_of(wandb, "resumed"), fresh_store)
    wandb.grow(run, rows(15, 10))
    assert carry(source_of(wandb, "resumed"), fresh_store)["r1"].verdict == "partial"
    assert_metrics(read_runs(fresh_store)["r1"], 25)


@pytest.mark.parametrize(
    ("operation", "fault", "survives"),
    [
        ("HistoryPage", {"status": 429, "retry_after": 0.2, "skip": 2}, True),
        ("HistoryPage", {"status": 500, "skip": 2}, True),
        ("HistoryPage", {"drop_after_bytes": 60, "skip": 2}, True),
        ("HistoryPage", {"status": 500, "skip": 2, "times": None}, False),
        ("HistoryPage", {"status": 400, "skip": 2, "times": None}, False),
        ("GET /storage/*history.parquet", {"drop_after_bytes": 60}, True),
        ("GET /storage/*history.parquet", {"drop_after_bytes": 60, "times": None}, False),
        ("RunFiles", {"status": 500}, True),
        ("RunFiles", {"status": 500, "times": None}, False),
        ("RunFullHistory", {"status": 400, "times": None}, False),
        ("RunOutputArtifacts", {"status": 400, "times": None}, False),
    ],
)
def test_no_fault_leaves_a_run_complete_with_rows_missing(
    wandb: WandbServer, fresh_store: str, operation: str, fault: dict[str, Any], survives: bool
) -> None:
    """Survived, or failed with one clear line; once the server is well, the run is made whole."""
    name = f"fault-{operation}-{fault}".replace("/", "-")
    event = json.dumps({"system.cpu": 1.0, "_timestamp": 1.7e9})
    run = wandb.add_run(name, "r1", rows=rows(60), files={"a": b"a"}, events=[event])
    wandb.parquet(run, 20)
    wandb.fail(operation, **fault)
    patience = 20 if survives else 1
    source = source_of(wandb, name, page_rows=10, patience_s=patience)
    outcome = carry(source, fresh_store)["r1"]
    complete = read_runs(fresh_store)["r1"].tags["mlflow.wandb.state"] == "complete"
    assert (outcome.action == "migrated", complete) == (survives, survives)
    assert "\n" not in outcome.reason
    assert bool(outcome.reason) is not survives
    wandb.heal()
    carry(source_of(wandb, name), fresh_store)
    state = read_runs(fresh_store)["r1"]
    assert state.tags["mlflow.wandb.state"] == "complete"
    system = state.metrics.pop("system/cpu_utilization_percentage")
    assert [value for value, _, _ in system] == [1.0]
    assert_metrics(state, 60)


def test_rows_that_the_server_does_not_give_leave_the_run_partial(
    wandb: WandbServer, fresh_store: str
) -> None:
    """The outcome tells of them, and the run is not marked complete."""
    run = wandb.add_run("lacking", "r1", rows=rows(20))
    lines = list(run.history.live)
    run.history.live_data = lambda keys: [  # type: ignore[method-assign]
        {"_step": line.step} for line in lines if line.step != 7
    ]
    page = run.history.page
    run.history.page = lambda low, high, limit: [  # type: ignore[method-assign]
        text for text in page(low, high, limit) if json.loads(text)["_step"] != 7
    ]
    outcome = carry(source_of(wandb, "lacking"), fresh_store)["r1"]
    (unreadable,) = outcome.unreadable
    assert "1 rows at row 19 unreadable" in str(unreadable)
    assert read_runs(fresh_store)["r1"].tags["mlflow.wandb.state"] == "partial"


def test_many_workers_share_one_limit(wandb: WandbServer, fresh_store: str) -> None:
    """A server that refuses every fifth request is asked less, and everything arrives."""
    for i in range(12):
        wandb.add_run("busy", f"r{i}", rows=rows(30))
    asked = [0]

    def every_fifth(request: Any) -> bool:
        asked[0] += 1
        return request.path == "/graphql" and asked[0] % 5 == 0

    rule = wandb.fail(every_fifth, status=429, retry_after=0.05, times=25)
    outcomes = carry(source_of(wandb, "busy", page_rows=10), fresh_store, workers=4)
    assert {outcome.action for outcome in outcomes.values()} == {"migrated"}
    assert rule.hits > 10
    states = read_runs(fresh_store)
    assert len(states) == 12
    for state in states.values():
        assert_metrics(state, 30)


@pytest.mark.slow
def test_a_backfill_killed_on_the_way_is_gone_on_with(
    wandb: WandbServer, empty_store: Path, tmp_path: Path
) -> None:
    """Killed at ever later pages: nothing is half-done, nothing comes twice, the rest arrives."""
    wandb.add_run("killed", "r1", rows=rows(120))
    uri = copy_store(empty_store, tmp_path / "killed.db")
    code = (
        "import os\n"
        "from mlflow_wandb_plugin.backfill.engines.threads import backfill\n"
        "from mlflow_wandb_plugin.sources.wandb_server.opening import open_wandb_server\n"
        "from mlflow_wandb_plugin.sources.wandb_server.source import WandbServerSource\n"
        "from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget\n"
        "from mlflow_wandb_plugin.core.model import Selection\n"
        "source = open_wandb_server(os.environ['SOURCE'])\n"
        "source = WandbServerSource(source._client, page_rows=10)\n"
        "list(backfill(source, MlflowTarget(os.environ['TARGET']), Selection()))\n"
    )
    script = tmp_path / "backfill.py"
    script.write_text(code)
    env = isolated(
        tmp_path / "env", WANDB_API_KEY=wandb.api_key, TARGET=uri,
        SOURCE=f"wandb+{wandb.url}/tester/killed", PYTHONPATH=os.environ.get("PYTHONPATH", ""),
    )  # fmt: skip
    for page in (2, 5):
        kill_at(wandb, page, script, env)
        assert read_runs(uri)["r1"].tags["mlflow.wandb.state"] != "complete"
    with started([sys.executable, str(script)], env, tmp_path) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    (state,) = read_runs(uri).values()
    assert_metrics(state, 120)
    assert state.tags["mlflow.wandb.state"] == "complete"


def kill_at(wandb: WandbServer, page: int, script: Path, env: dict[str, str]) -> None:
    """Start the script and kill it while it waits for a page of history."""
    before = len(wandb.asked("HistoryPage"))
    wandb.fail("HistoryPage", skip=page, times=None, delay=60)
    with started([sys.executable, str(script)], env, script.parent) as process:
        wait_until(lambda: len(wandb.asked("HistoryPage")) > before + page or process.poll(), 240)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    wandb.heal()


def test_a_project_logged_with_the_sdk_equals_its_local_backfill(
    wandb: WandbServer, empty_store: Path, tmp_path: Path
) -> None:
    """One run, online with a local log: backfilled from the server and from the folder, the same
    params, metrics and history documents."""
    from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir

    with Worker(wandb, tmp_path / "sdk") as worker:
        worker.call(
            """
            import wandb
            with wandb.init(project="both", id="r1", config={"a": {"b": 1}, "lr": 0.5}) as run:
                run.define_metric("best", summary="max")
                for i in range(40):
                    run.log({"loss": 1 / (i + 1), "n": {"a": i, "b": {"c": 2.5}}, "d.e": i,
                             "nan": float("nan"), "flag": i % 2 == 0, "text": f"t{i}",
                             "hist": wandb.Histogram([i, 1, 2]), "best": -i})
                run.log({"once": 3}, step=100)
                run.summary["extra"] = 7
            """
        )
    (local,) = (tmp_path / "sdk" / "dir" / "wandb").glob("run-*-r1")
    uris = [copy_store(empty_store, tmp_path / f"{name}.db") for name in ("server", "folder")]
    wandb.parquet(wandb.run("both/r1"), 20)
    for source, uri in zip((source_of(wandb, "both"), WandbDir(local)), uris, strict=True):
        (outcome,) = backfill(source, MlflowTarget(uri), Selection())
        assert outcome.action == "migrated", outcome.reason
    server, folder = (read_runs(uri)["r1"] for uri in uris)
    assert server.params == folder.params
    assert _user_metrics(server) == _user_metrics(folder)
    assert len(server.metrics["loss"]) == 40
    assert history(uris[0], server.run_id, tmp_path / "0") == history(
        uris[1], folder.run_id, tmp_path / "1"
    )
    assert (server.name, server.status) == (folder.name, folder.status)


RESUMED_FOUR_TIMES = """
import mlflow_wandb_plugin.wandb as wandb
def session():
    return wandb.init(project="resumed-sdk", id="r1", resume="allow")
with session() as run:
    run.define_metric("top", summary="max")
    for i in range(1, 4):
        run.log({"loss": 1 / i, "acc": i, "top": -i})
    run.summary["best"] = 5
with session() as run:
    run.log({"acc": 10})
with session() as run:
    run.summary["final"] = 7
with session():
    pass
"""


def test_a_resumed_run_has_no_points_but_those_that_were_logged(
    wandb: WandbServer, empty_store: Path, tmp_path: Path
) -> None:
    """Live, from the local logs and from the server: a session that logs one key, or nothing, adds
    no points of the keys in the summary that W&B hands to it."""
    from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir

    names = ("live", "server", "folder", "last")
    uris = {name: copy_store(empty_store, tmp_path / f"{name}.db") for name in names}
    live = {"MLFLOW_TRACKING_URI": uris["live"], "MLFLOW_WANDB_INIT_TIMEOUT": "90"}
    with Worker(wandb, tmp_path / "sdk", **live, MLFLOW_WANDB_FINISH_TIMEOUT="120") as worker:
        worker.call(RESUMED_FOUR_TIMES, timeout=300)
    logs = sorted((tmp_path / "sdk" / "dir" / "wandb").glob("run-*-r1*"))
    assert len(logs) == 4
    for name, source in (
        ("folder", WandbDir(logs[0].parent)),
        ("last", WandbDir(logs[2])),
        ("server", source_of(wandb, "resumed-sdk")),
    ):
        (outcome,) = backfill(source, MlflowTarget(uris[name]), Selection())
        assert outcome.action == "migrated", outcome.reason
    assert wandb.run("resumed-sdk/r1").history.line_count == 4
    points = {
        "loss": [(0, 1.0), (1, 1 / 2), (2, 1 / 3)],
        "acc": [(0, 1.0), (1, 2.0), (2, 3.0), (3, 10.0)],
        "top": [(0, -1.0), (1, -2.0), (2, -3.0)],
    }
    # A number that only the summary has is one point, at the last step that its source knows.
    by_log = points | {"top.max": [(2, -1.0)], "best": [(2, 5.0)], "final": [(3, 7.0)]}
    by_run = points | {"top.max": [(3, -1.0)], "best": [(3, 5.0)], "final": [(3, 7.0)]}
    assert _points(uris["live"]) == by_log
    assert _points(uris["folder"]) == by_log
    assert _points(uris["last"]) == {"final": [(3, 7.0)]}
    assert _points(uris["server"]) == by_run


def test_a_summary_number_is_not_repeated_when_a_run_goes_on(
    wandb: WandbServer, fresh_store: str
) -> None:
    """A run is backfilled, resumed and backfilled again: a number that only its summary has stays
    the one point that it was."""
    first = rows(10)
    run = wandb.add_run("repeat", "r1", rows=first, summary={**first[-1], "best": 5})
    carry(source_of(wandb, "repeat"), fresh_store)
    wandb.grow(run, rows(5, 10))
    run.summary["best"] = 5
    carry(source_of(wandb, "repeat"), fresh_store)
    state = read_runs(fresh_store)["r1"]
    assert state.metrics.pop("best") == [(5.0, 1_700_000_009_000, 9)]
    assert_metrics(state, 15)


def _points(uri: str) -> dict[str, list[tuple[int, Any]]]:
    (run,) = read_runs(uri).values()
    return {name: run.points(name) for name in _user_metrics(run)}


def _user_metrics(state: RunState) -> dict[str, Any]:
    return {name: points for name, points in state.metrics.items() if name[:7] != "system/"}


def test_an_update_looks_at_everything_again(wandb: WandbServer, fresh_store: str) -> None:
    """`--existing update`: a metric that was left out before is carried now."""
    wandb.add_run("update", "r1", rows=rows(20))
    carry(source_of(wandb, "update"), fresh_store, exclude_metrics=("^loss",))
    assert "loss" not in read_runs(fresh_store)["r1"].metrics
    outcome = carry(source_of(wandb, "update"), fresh_store, existing="update")["r1"]
    assert (outcome.verdict, outcome.action) == ("existing", "repaired")
    assert_metrics(read_runs(fresh_store)["r1"], 20)
