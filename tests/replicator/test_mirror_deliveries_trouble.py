"""Mirrored runs reach W&B completely and once, whatever fails meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_wandb_plugin.core.helper_process import LOG_NAME
from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.status_file import read_status
from tests.support.commands import mlflow_wandb
from tests.support.mirrored import START_MS, JournalledRun, forward, replicator
from tests.support.processes import free_port, wait_until
from tests.wandb_server import Run, WandbServer
from tests.wandb_server.clients import environment
from tests.wandb_server.faults import Match, Request

STREAM = "POST /files/*/file_stream"


@pytest.fixture(scope="module")
def wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    with WandbServer(tmp_path_factory.mktemp("wandb")) as running:
        yield running
        assert not running.executor.unknown, "fields that the server does not know"


@pytest.fixture(autouse=True)
def _healthy(wandb: WandbServer) -> Iterator[None]:
    yield
    wandb.heal()


@pytest.fixture
def env(wandb: WandbServer, tmp_path: Path) -> dict[str, str]:
    more = {
        "WANDB_MODE": "online",
        "WANDB_DIR": str(tmp_path),
        "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
    }
    return environment(wandb, tmp_path / "private", more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "wandb" / "mlflow"


def losses(run: Run) -> list[float]:
    """The logged values by row; each row has come once."""
    lines = [line.row for line in run.history.live]
    assert [line["_step"] for line in lines] == list(range(len(lines)))
    return [line["loss"] for line in lines if "loss" in line]


def expected(count: int) -> list[float]:
    return [1 / (i + 1) for i in range(count)]


def said(path: Path) -> tuple[str, str]:
    status = read_status(path)
    return str(status.get("state", "")), str(status.get("error", ""))


def kill(process: subprocess.Popen[bytes]) -> None:
    """The replicator dies as by ``kill -9``, and wandb-core with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def test_a_run_is_followed_while_it_goes_on(
    wandb: WandbServer, env: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    """W&B has the rows while the run still runs; the replicator ends by itself afterwards."""
    run = JournalledRun(folder, "live", project="live")
    run.create()
    run.points(10)
    with replicator(folder, env, tmp_path) as process:
        project = wandb.project("live")
        wait_until(lambda: "live" in project.runs, what="the run in W&B")
        there = project.runs["live"]
        wait_until(lambda: losses(there) == expected(10), what="its rows")
        run.points(10, start=10)
        wait_until(lambda: losses(there) == expected(20), what="more rows")
        assert (there.state, said(run.path)[0]) == ("running", "live")
        assert forward(folder, env, tmp_path) == "", "a second replicator has nothing to do"
        assert process.poll() is None
        run.end()
        assert process.wait(30) == 0
    assert (there.state, there.exit_code, len(there.history.live)) == ("finished", 0, 20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "skip"),
    [
        ("UpsertBucket", 0),
        (STREAM, 0),
        ("CreateRunFiles", 0),
        ("CommitArtifact", 0),
        ("MirroredRun", 1),
    ],
)
def test_a_replicator_killed_at_any_moment_loses_and_doubles_nothing(
    wandb: WandbServer, env: dict[str, str], folder: Path, tmp_path: Path, moment: Match, skip: int
) -> None:
    """It is killed just after W&B accepted a request; the next replicator goes on."""
    name = f"killed-{moment[:6]}-{skip}".replace("/", "-").replace(" ", "-")
    run = JournalledRun(folder, "k", project=name)
    run.create(team="x")
    run.points(30)
    run.file("a.txt", b"a")
    run.op("model", id="m-1", name="model", type="", params={}, tags={}, status="READY")
    run.file("MLmodel", b"flavor", model="m-1")
    run.points(30, start=30)
    run.end("FAILED")
    with replicator(folder, env, tmp_path) as process:
        fault = wandb.fail(moment, skip=skip, then=lambda: kill(process))
        process.wait(60)
    assert (fault.hits, process.returncode) == (1, -signal.SIGKILL)
    assert run.path.exists()
    forward(folder, env, tmp_path)
    there = wandb.run(f"{name}/k")
    assert losses(there) == expected(60)
    assert (there.state, there.exit_code, there.tags) == ("failed", 1, ["team:x"])
    assert there.files["artifacts/a.txt"].path.read_bytes() == b"a"
    (model,) = wandb.project(name).collections["model"].versions
    assert "m-1" in model.aliases
    assert not run.path.exists()


def test_a_replicator_killed_again_and_again_beside_a_live_run(
    wandb: WandbServer, env: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    """Each replicator continues where W&B is, and reads again what was not sent."""
    run = JournalledRun(folder, "again", project="again")
    run.create()
    for attempt in range(2):
        run.points(40, start=40 * attempt)
        with replicator(folder, env, tmp_path) as process:
            arrived = 10 + 40 * attempt
            runs = wandb.project("again").runs
            wait_until(
                lambda runs=runs, arrived=arrived: (
                    "again" in runs and len(runs["again"].history.live) >= arrived
                ),
                what="rows in W&B",
            )
            kill(process)
            process.wait(30)
    run.end()
    forward(folder, env, tmp_path)
    assert losses(wandb.run("again/again")) == expected(80)


def test_the_replicator_restarts_when_wandb_core_dies(
    wandb: WandbServer, env: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    """The SDK cannot go on without wandb-core: the replicator restarts with a new one."""
    run = JournalledRun(folder, "core", project="core")
    run.create()
    run.points(10)
    runs = wandb.project("core").runs
    with replicator(folder, env, tmp_path) as process:
        wait_until(lambda: "core" in runs and runs["core"].history.live, what="rows in W&B")
        for child in children(process.pid):
            os.kill(child, signal.SIGKILL)
        run.points(10, start=10)
        run.end()
        assert process.wait(60) == 0
    assert losses(runs["core"]) == expected(20)
    assert runs["core"].state == "finished"


def children(pid: int) -> list[int]:
    """The processes that ``pid`` started and that are still there."""
    listing = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    )
    found = [int(line) for line in listing.stdout.split()]
    assert found, "no wandb-core"
    return found


def test_trouble_is_logged_once_and_sync_delivers_later(
    wandb: WandbServer, env: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    """No key, a wrong key and no server each give one warning; `sync` delivers later."""
    run = JournalledRun(folder, "late", project="late")
    run.create()
    run.points(5)
    run.end()
    keyless = {name: value for name, value in env.items() if name != "WANDB_API_KEY"}
    for trouble, text in (
        (keyless, "no API key for the W&B server"),
        ({**env, "WANDB_API_KEY": "f" * 40}, "does not accept the API key"),
        ({**env, "WANDB_BASE_URL": f"http://127.0.0.1:{free_port()}"}, "did not answer"),
    ):
        (folder / LOG_NAME).unlink(missing_ok=True)
        log = forward(folder, trouble, tmp_path)
        assert (log.count("WARNING"), text in log) == (1, True), log
        state, error = said(run.path)
        assert (state, text in error) == ("waiting", True)
        assert outbox.read_trouble(folder) == error
        assert env["WANDB_API_KEY"] not in log + error
        assert "f" * 40 not in log + error
    (row,) = json.loads(mlflow_wandb("status", "--json", env=env, cwd=tmp_path).stdout)
    assert (row["log"], row["home"], row["replica"]) == ("late", "W&B", "waiting")
    assert "did not answer" in row["trouble"]
    refused = mlflow_wandb("sync", env=keyless, cwd=tmp_path)
    assert (refused.returncode, "no API key" in refused.stdout) == (1, True)

    done = mlflow_wandb("sync", env=env, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "To W&B:\n  late: complete\n"), (
        done.stdout + done.stderr
    )
    assert outbox.read_trouble(folder) == ""
    assert losses(wandb.run("late/late")) == expected(5)
    (row,) = json.loads(mlflow_wandb("status", tmp_path, "--json", env=env, cwd=tmp_path).stdout)
    assert (row["replica"], row["not yet shipped"], row["trouble"]) == ("complete", "", "")


@pytest.mark.slow
def test_a_file_that_wandb_gave_up_on_is_sent_again(
    wandb: WandbServer, env: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    """wandb-core only logs a refused upload: the replicator checks and sends it again."""
    run = JournalledRun(folder, "refused", project="refused")
    run.create()
    run.points(3)
    run.file("a.bin", b"a" * 1000)
    run.end()
    fault = wandb.fail("PUT /storage/*a.bin", status=400)
    forward(folder, env, tmp_path, linger=5)
    there = wandb.run("refused/refused")
    assert fault.hits
    assert there.files["artifacts/a.bin"].path.read_bytes() == b"a" * 1000
    assert losses(there) == expected(3)


@pytest.mark.parametrize("for_good", [True, False])
def test_what_wandb_refuses_is_counted_and_the_rest_goes_on(
    wandb: WandbServer, env: dict[str, str], folder: Path, tmp_path: Path, for_good: bool
) -> None:
    """A model that W&B refuses is sent a second time, and delays neither its run nor others."""

    def is_first(request: Request) -> bool:
        name = request.variables.get("input", {}).get("artifactCollectionName")
        return (request.operation, name) == ("CreateArtifact", "first")

    fault = wandb.fail(is_first, status=400, times=None if for_good else 1)
    project = f"no-{for_good}"
    run = JournalledRun(folder, "no", project=project)
    run.create("n" * 200)
    for name in ("first", "second"):
        run.op("model", id=name, name=name, type="", params={}, tags={}, status="READY")
        run.file("MLmodel", name.encode(), model=name)
    run.points(3)
    run.end()
    forward(folder, env, tmp_path, linger=3)
    there = wandb.run(f"{project}/no")
    assert losses(there) == expected(3)
    lost = {"artifact": 1} if for_good else {}
    assert fault.hits == (2 if for_good else 1)
    assert json.loads(there.values["mlflow_wandb_replica"]["mlflow.wandb.losses"]) == lost
    assert read_status(run.path)["losses"] == lost
    logged = sorted(artifact.collection.name for artifact in there.logged_artifacts)
    assert logged == (["second"] if for_good else ["first", "second"])
    assert (there.display_name, there.values["mlflow"]["name"]) == ("n" * 128, "n" * 200)


def test_sync_leaves_a_run_on_a_server_running(
    wandb: WandbServer, env: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    """A server closes idle journals: the run goes on, and ends with a later journal."""
    run = JournalledRun(folder, "idle", project="idle", role="server")
    run.create()
    run.points(3)
    run.close()
    done = mlflow_wandb("sync", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    there = wandb.run("idle/idle")
    assert (there.state, losses(there)) == ("running", expected(3))
    later = JournalledRun(folder, "idle", project="idle", role="server")
    later.points(2, start=3)
    later.end("KILLED")
    forward(folder, env, tmp_path)
    assert (there.state, there.exit_code, losses(there)) == ("failed", 255, expected(5))


def test_a_torn_record_is_counted(
    wandb: WandbServer, env: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    """An incomplete record of a full disk is counted, and the rest arrives."""
    run = JournalledRun(folder, "torn", project="torn")
    run.create()
    run.points(3)
    run.batch(("loss", 9.0, START_MS, 9))
    run.close()
    with open(run.path, "r+b") as file:
        file.truncate(run.path.stat().st_size - 5)
    forward(folder, env, tmp_path)
    there = wandb.run("torn/torn")
    assert losses(there) == expected(3)
    assert there.values["mlflow"]["lost"] == {"record cut short": 1}
    assert not run.path.exists()
