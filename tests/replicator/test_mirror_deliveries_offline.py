"""WANDB_MODE=offline: a mirrored run becomes an offline run for `wandb sync`."""

from __future__ import annotations

import contextlib
import json
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
from mlflow_wandb_plugin.core.model import RunInfo, Selection
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.replicator.test_mirror_deliveries import MODEL, VERSION
from tests.support import core_says
from tests.support.environment import isolated
from tests.support.mirrored import START_MS, JournalledRun, forward, replicator
from tests.support.mlflow_state import read_runs
from tests.support.processes import started, wait_until
from tests.support.wandb_source import source_of
from tests.wandb_server import WandbServer
from tests.wandb_server.clients import environment

NAME = "offline-run-20231114_221320-off"
"""The folder of the run ``off``, by its start in UTC."""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return isolated(tmp_path)


@pytest.fixture
def folder(env: dict[str, str]) -> Path:
    return Path(env["WANDB_DIR"]) / "wandb" / "mlflow"


@pytest.fixture(scope="module")
def wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    with WandbServer(tmp_path_factory.mktemp("wandb")) as running:
        yield running
        assert not running.executor.unknown, "fields that the server does not know"


def offline_runs(folder: Path) -> list[Path]:
    return sorted(folder.parent.glob("offline-run-*"))


def write(folder: Path, run_id: str = "off", **header: Any) -> JournalledRun:
    run = JournalledRun(folder, run_id, project="offline", **header)
    run.create("an offline run", team="x", **{"mlflow.note.content": "noted"})
    run.points(10)
    run.batch(("loss", 5.0, START_MS - 1000, -3), params={"lr": "0.1"})
    run.file("a/b.txt", b"content")
    run.op("model", **MODEL, status="READY")
    run.file("MLmodel", b"flavor", model="m-1")
    run.op("version", **VERSION, aliases=["champion"])
    return run


def info_of(folder: Path) -> RunInfo:
    (info,) = WandbDir(folder.parent).runs(Selection())
    return info


def sync(wandb: WandbServer, tmp_path: Path, *runs: Path) -> None:
    """``wandb sync``, as a user types it."""
    command = [sys.executable, "-m", "wandb", "sync", *map(str, runs)]
    with started(command, environment(wandb, tmp_path / "sync"), tmp_path) as process:
        out, err = process.communicate(timeout=90)
    assert process.returncode == 0, out + err


def test_an_offline_run_is_written_once_and_completely(
    env: dict[str, str], folder: Path, tmp_path: Path, wandb: WandbServer
) -> None:
    """wandb-core's log has rows, times, config and end, and `wandb sync` delivers them."""
    write(folder).end("FAILED")
    forward(folder, env, tmp_path)
    (offline,) = offline_runs(folder)
    (log,) = offline.glob("*.wandb")
    assert core_says.rows(log) == [
        (
            number,
            {
                ("loss",): value, ("mlflow_step",): float(step),
                ("_timestamp",): START_MS / 1000 + seconds,
            },
        )
        for number, (value, step, seconds) in enumerate(
            [(1 / (i + 1), i, i) for i in range(10)] + [(5.0, -3, -1)]
        )
    ]  # fmt: skip
    info = info_of(folder)
    assert (info.run_id, info.project, info.name) == ("off", "offline", "an offline run")
    assert (offline.name, info.started_ms) == (NAME, START_MS)
    assert (info.state, info.exit_code, info.tags, info.notes) == (
        "failed",
        1,
        ("team:x",),
        "noted",
    )
    assert (info.config["lr"], info.config["mlflow_run_id"]) == (0.1, "off")
    assert info.config["mlflow"]["start_time"] == START_MS
    assert not list(folder.glob("off.[!s]*")), "the journal and its files"

    sync(wandb, tmp_path, offline)
    there = wandb.run("offline/off")
    assert (there.state, there.exit_code, len(there.history.live)) == ("failed", 1, 11)
    assert there.files["artifacts/a/b.txt"].path.read_bytes() == b"content"
    model = wandb.artifact("offline/model:fraud-champion")
    assert [blob.path.read_bytes() for blob in model.files.values()] == [b"flavor"]


def test_a_replicator_killed_offline_leaves_one_run(
    env: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    """The partial run of the killed replicator is never visible, and is written again."""
    run = write(folder)
    with replicator(folder, env, tmp_path) as process:
        wait_until(lambda: list(folder.glob("off.wandb/*.wandb")), what="the log")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    run.points(5, start=10)
    run.end()
    forward(folder, env, tmp_path)
    (offline,) = offline_runs(folder)
    (log,) = offline.glob("*.wandb")
    assert [step for step, _ in core_says.rows(log)] == list(range(16))
    assert info_of(folder).state == "finished"


@pytest.mark.parametrize("other", ["folder", "link"])
def test_a_folder_of_others_is_not_replaced(
    env: dict[str, str], folder: Path, tmp_path: Path, other: str
) -> None:
    """Where another run's folder, or a link to a folder, has the name, the run gets a name of its
    own."""
    write(folder).end()
    place = folder.parent / NAME
    theirs = place if other == "folder" else tmp_path / "theirs"
    theirs.mkdir(parents=True)
    (theirs / "mine.txt").write_text("mine")
    if other == "link":
        tags = {"wandb.run_id": "off", "wandb.project": "offline"}
        (theirs / "mlflow-wandb-replica.json").write_text(json.dumps(tags))
        place.symlink_to(theirs)
    before = sorted(theirs.iterdir())
    forward(folder, env, tmp_path)
    assert sorted(theirs.iterdir()) == before
    [ours] = [path for path in offline_runs(folder) if path.name != NAME]
    assert list(ours.glob("*.wandb"))


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_link_in_the_outbox_is_not_followed(
    env: dict[str, str], folder: Path, tmp_path: Path, linked: str
) -> None:
    """The file that it names does not reach W&B; it is counted."""
    private = tmp_path / "private"
    private.mkdir()
    (private / "key.png").write_bytes(b"secret")
    run = JournalledRun(folder, "off", project="offline")
    run.create("a run")
    run.points(2)
    if linked == "folder":
        run.files.symlink_to(private)
    else:
        run.files.mkdir()
        (run.files / "key.png").symlink_to(private / "key.png")
    run.op("file", path="key.png", file="key.png", model=None)
    run.op("file", path="w.bin", file="key.png", model="m-1")
    run.end()
    forward(folder, env, tmp_path)
    (offline,) = offline_runs(folder)
    secrets = [
        file for file in offline.rglob("*") if file.is_file() and b"secret" in file.read_bytes()
    ]
    assert not secrets
    status = json.loads((folder / "off.status").read_text())
    assert (status["state"], status["losses"]["file is a symbolic link"]) == ("complete", 2)
    assert (private / "key.png").read_bytes() == b"secret"


def test_a_second_offline_run_continues_the_row_numbers(
    env: dict[str, str], folder: Path, tmp_path: Path, wandb: WandbServer
) -> None:
    """A later journal makes a second offline run of the same id with the following rows."""
    write(folder, "onward").end()
    forward(folder, env, tmp_path)
    later = JournalledRun(folder, "onward", project="offline")
    later.points(2, start=10)
    later.op("alias", name="fraud", alias="best", version="1")
    later.close()
    forward(folder, env, tmp_path)
    logs = [next(path.glob("*.wandb")) for path in offline_runs(folder)]
    steps = sorted([step for step, _ in core_says.rows(log)] for log in logs)
    assert steps == [list(range(11)), [11, 12]]
    for path in offline_runs(folder):
        sync(wandb, tmp_path, path)
    there = [line.row["_step"] for line in wandb.run("offline/onward").history.live]
    assert there == list(range(13))
    status = json.loads((folder / "onward.status").read_text())
    assert status["losses"] == {"alias of a model that W&B does not have": 1}
    assert status["about"]["status"] == "FINISHED"


def born(uri: str) -> str:
    """A run in the MLflow at ``uri`` that was mirrored; returns its id."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    tags = {
        "mlflow.wandb.origin": "mirror",
        "mlflow.wandb.owner": "somebody",
        "wandb.project": "back",
    }
    run = client.create_run("0", tags=tags)
    client.log_metric(run.info.run_id, "loss", 1.0, timestamp=START_MS, step=0)
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def carry(source: Source, uri: str) -> Outcome:
    (outcome,) = backfill(source, MlflowTarget(uri), Selection(), BackfillOptions())
    return outcome


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_backfill_leaves_a_mirrored_run_alone(
    env: dict[str, str],
    folder: Path,
    tmp_path: Path,
    wandb: WandbServer,
    fresh_store: str,
    mode: str,
) -> None:
    """A backfill into the run's own MLflow skips it as dual-written and changes nothing."""
    run_id = born(fresh_store)
    write(folder, run_id, tracking_uri=fresh_store).end()
    if mode == "online":
        env = environment(wandb, tmp_path / "private", {"WANDB_MODE": "online"})
    forward(folder, env, tmp_path)
    source: Source = WandbDir(folder.parent)
    if mode == "online":
        source = source_of(wandb, "offline", run_id)
    before = read_runs(fresh_store)
    outcome = carry(source, fresh_store)
    assert (outcome.run.run_id, outcome.mlflow_run_id) == (run_id, run_id)
    assert (outcome.verdict, outcome.action) == ("dual-written", "skipped"), outcome
    assert read_runs(fresh_store) == before
