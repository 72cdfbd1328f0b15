"""Ship one journal to a real store: its states, and the files it leaves behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from wandb.proto.wandb_internal_pb2 import Record

from mlflow_wandb_plugin import backfill
from mlflow_wandb_plugin.journal.frames import RECORD
from mlflow_wandb_plugin.journal.journal_locks import shipping_lock
from mlflow_wandb_plugin.journal.reader import read_header
from mlflow_wandb_plugin.journal.status_file import read_status, write_status
from mlflow_wandb_plugin.journal.writer import Journal
from mlflow_wandb_plugin.replicator import mlflow_shipment
from mlflow_wandb_plugin.replicator.mlflow_shipment import (
    MlflowShipment,
    handover_file,
    was_resumed,
)
from mlflow_wandb_plugin.sources.wandb_local.run_log import is_open_elsewhere
from mlflow_wandb_plugin.targets.mlflow import client
from mlflow_wandb_plugin.wandb_log.log_writer import LogWriter
from tests.support.mlflow_state import read_runs
from tests.support.processes import free_port, wait_until
from tests.support.records import exit_record, history_record, partial_record, run_record
from tests.wandb_server import WandbServer


def written(
    folder: Path, *records: Any, closed: bool = True, uploaded: bool = True, **header: Any
) -> Path:
    """A journal of a trainer that is gone."""
    ours = open_journal(folder, *records, **header)
    if closed:
        ours.note(closed=True, broken=False, uploaded=uploaded)
    ours.close()
    return ours.path


def open_journal(
    folder: Path, *records: Any, name: str = "20260101_000000-r1", **header: Any
) -> Journal:
    where = folder / f"offline-run-{name}" / f"run-{name[16:]}.wandb"
    known = {"run_id": name[16:], "wandb_file": str(where), "experiment": "{project}"}
    ours = Journal(folder / "mlflow" / f"{name}.journal", known | header)
    for record in records:
        ours.append(RECORD, record.SerializeToString())
    return ours


def shipment(
    path: Path, uri: str, keep_trying: bool = False, follow: bool = False
) -> MlflowShipment:
    return MlflowShipment(path, uri, "{project}", follow, lambda: keep_trying)


WHOLE = (run_record("r1"), partial_record({"a": 1.0}), partial_record({"a": 2.0}), exit_record())


def test_a_complete_journal_is_delivered_and_removed(fresh_store: str, tmp_path: Path) -> None:
    """The run is complete in MLflow, and the status file has its location."""
    path = written(tmp_path, *WHOLE)
    assert shipment(path, fresh_store).ship() == "complete"
    run = read_runs(fresh_store)["r1"]
    assert (run.status, run.points("a")) == ("FINISHED", [(0, 1.0), (1, 2.0)])
    assert run.tags["mlflow.wandb.state"] == "complete"
    status = read_status(path)
    assert (status["state"], status["run_id"], status["points"]) == ("complete", run.run_id, 2)
    assert [file.name for file in path.parent.iterdir()] == [path.with_suffix(".status").name]
    assert shipment(path, fresh_store).ship() == "complete"


@pytest.mark.parametrize("folder", ["run-", "offline-run-"])
def test_the_config_of_an_online_run_names_the_mlflow_run(
    fresh_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """What the training process could not add is added once the run is complete; a run that W&B's
    server was not to have costs no request."""
    name = "20260101_000000-r1"
    wandb_file = tmp_path / f"{folder}{name}" / "run-r1.wandb"
    path = written(tmp_path, *WHOLE, wandb_file=str(wandb_file))
    with WandbServer(tmp_path / "wandb-server") as server:
        run = server.add_run("unit", "r1", config={"lr": 1})
        for key, value in {**server.env(tmp_path / "client"), "WANDB_MODE": "online"}.items():
            monkeypatch.setenv(key, value)
        assert shipment(path, fresh_store).ship() == "complete"
        config = {key: item["value"] for key, item in run.config.items()}
        assert bool(server.requests) is (folder == "run-")
    twin = read_runs(fresh_store)["r1"].run_id
    assert config.get("mlflow_run_id") == (twin if folder == "run-" else None)
    assert config["lr"] == 1


def test_a_trainer_that_lives_leaves_its_run_open(fresh_store: str, tmp_path: Path) -> None:
    """The present records are shipped, the journal stays, the next shipment continues."""
    ours = open_journal(tmp_path, run_record("r1"), partial_record({"a": 1.0}))
    assert shipment(ours.path, fresh_store).ship() == "partial"
    assert read_runs(fresh_store)["r1"].status == "RUNNING"
    for record in (partial_record({"a": 2.0}), exit_record()):
        ours.append(RECORD, record.SerializeToString())
    ours.note(closed=True, broken=False)
    ours.close()
    assert shipment(ours.path, fresh_store).ship() == "complete"
    assert read_runs(fresh_store)["r1"].points("a") == [(0, 1.0), (1, 2.0)]


@pytest.mark.parametrize("alive", [True, False])
def test_the_trainer_alone_decides_which_files_are_read(
    fresh_store: str, tmp_path: Path, alive: bool
) -> None:
    """A link to a system file is followed while the trainer lives, and not in a journal left."""
    ours = open_journal(tmp_path, *WHOLE)
    files = tmp_path / "offline-run-20260101_000000-r1" / "files"
    files.mkdir(parents=True)
    (files / "hosts").symlink_to("/etc/hosts")
    if not alive:
        ours.close()
    shipment(ours.path, fresh_store).ship()
    ours.close()
    (run,) = read_runs(fresh_store, tmp_path / "downloaded").values()
    arrived = tmp_path / "downloaded" / run.run_id / "wandb/files/hosts"
    assert arrived.is_file() == alive
    assert read_status(ours.path)["losses"] == ({} if alive else {"file_not_read": 1})


def test_a_run_with_a_step_metric_goes_on_where_it_was(fresh_store: str, tmp_path: Path) -> None:
    """Rows that were shipped are read again, and their points are not written again."""
    start = run_record("r1", config={"mlflow_step_metric": "at"})
    ours = open_journal(tmp_path, start, partial_record({"a": 1.0, "at": 10}))
    assert shipment(ours.path, fresh_store).ship() == "partial"
    ours.append(RECORD, partial_record({"a": 2.0, "at": 20}).SerializeToString())
    ours.close()
    assert shipment(ours.path, fresh_store).ship() == "complete"
    assert read_runs(fresh_store)["r1"].points("a") == [(10, 1.0), (20, 2.0)]


@pytest.mark.parametrize("rule", ["defined", "wandb"])
def test_the_rule_of_steps_is_that_of_the_training_process(
    fresh_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """Whatever the process that delivers the journal is set to, and the next one that goes on."""
    monkeypatch.setenv("MLFLOW_WANDB_STEPS", "wandb" if rule == "defined" else "defined")
    definition = Record()
    definition.metric.name, definition.metric.step_metric = "a", "at"
    rows = [partial_record({"a": 1.0, "at": 10}), partial_record({"a": 2.0, "at": 20})]
    ours = open_journal(tmp_path, run_record("r1"), definition, rows[0], steps=rule)
    assert shipment(ours.path, fresh_store).ship() == "partial"
    ours.append(RECORD, rows[1].SerializeToString())
    ours.close()
    assert shipment(ours.path, fresh_store).ship() == "complete"
    wanted = [(10, 1.0), (20, 2.0)] if rule == "defined" else [(0, 1.0), (1, 2.0)]
    assert read_runs(fresh_store)["r1"].points("a") == wanted


def test_a_killed_trainers_run_is_killed(fresh_store: str, tmp_path: Path) -> None:
    """Everything that it logged is there, also the pending row."""
    path = written(
        tmp_path, run_record("r1"), partial_record({"a": 1.0}, commit=False), closed=False
    )
    assert shipment(path, fresh_store).ship() == "complete"
    run = read_runs(fresh_store)["r1"]
    assert (run.status, run.points("a")) == ("KILLED", [(0, 1.0)])


@pytest.fixture
def left_to_core(tmp_path: Path) -> Iterator[tuple[Path, LogWriter]]:
    """The journal of a process that ended without finish(), and wandb-core's log of its run, which
    a process has open as long as the caller does not close its standard input."""
    path = written(tmp_path, *WHOLE[:3], closed=False)
    log = Path(read_header(path)["wandb_file"])
    log.parent.mkdir()
    with LogWriter(log) as writer:
        for record in (run_record("r1"), *(history_record({"a": a}, a - 1, 1.7e9) for a in (1, 2))):
            writer.append(record.SerializeToString())
        yield path, writer


@contextmanager
def opened_by_core(log: Path) -> Iterator[None]:
    """Another process has ``log`` open."""
    code = f"import sys; file = open({str(log)!r}, 'ab'); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        wait_until(lambda: is_open_elsewhere(log), what="the writer")
        yield
    finally:
        process.communicate(timeout=30)


def end_of_run(writer: LogWriter) -> None:
    """What wandb-core writes when the parent process ends: 60 s after the run's start."""
    stats = Record()
    stats.stats.timestamp.FromMilliseconds(1_700_000_050_000)
    stats.stats.item.add(key="cpu", value_json="12.5")
    for record in (stats, exit_record(runtime_s=60)):
        writer.append(record.SerializeToString())


def assert_ended_by_core(uri: str) -> None:
    run = read_runs(uri)["r1"]
    assert (run.status, run.end) == ("FINISHED", 1_700_000_060_000)
    assert (run.tags["wandb.state"], run.tags["wandb.exit_code"]) == ("finished", "0")
    assert run.points("a") == [(0, 1.0), (1, 2.0)]
    (system,) = (points for name, points in run.metrics.items() if name.startswith("system/"))
    assert system == [(12.5, 1_700_000_050_000, 50)]


def test_a_run_that_its_process_left_to_wandb_core_ends_as_core_says(
    fresh_store: str, left_to_core: tuple[Path, LogWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replicator follows wandb-core's log until its end; `sync` meanwhile leaves the run
    open, and finds its end later."""
    path, writer = left_to_core
    monkeypatch.setattr(mlflow_shipment, "DEAD_TRAINER_PATIENCE_S", 0.1)
    monkeypatch.setattr(mlflow_shipment, "CORE_POLL_S", 0.1)
    log = Path(read_header(path)["wandb_file"])
    with opened_by_core(log):
        assert shipment(path, fresh_store).ship() == "partial"
        assert read_runs(fresh_store)["r1"].status == "RUNNING"
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(shipment(path, fresh_store, follow=True).ship)
            wait_until(lambda: read_status(path).get("state") == "live", what="following")
            with pytest.raises(TimeoutError):
                following.result(timeout=1)
            end_of_run(writer)
            assert following.result(timeout=30) == "complete"
    assert_ended_by_core(fresh_store)


def test_sync_finds_the_end_that_core_wrote(
    fresh_store: str, left_to_core: tuple[Path, LogWriter]
) -> None:
    """Without a replicator, `sync` reads the end from wandb-core's log."""
    path, writer = left_to_core
    end_of_run(writer)
    assert shipment(path, fresh_store).ship() == "complete"
    assert_ended_by_core(fresh_store)


def test_a_backfill_corrects_a_run_that_counted_as_killed(
    fresh_store: str, left_to_core: tuple[Path, LogWriter]
) -> None:
    """wandb-core wrote the end only after the journal had been delivered and removed."""
    path, writer = left_to_core
    source = str(Path(read_header(path)["wandb_file"]).parent)
    assert shipment(path, fresh_store).ship() == "complete"
    assert read_runs(fresh_store)["r1"].status == "KILLED"
    (outcome,) = backfill(source, fresh_store)
    assert outcome.action == "skipped"
    end_of_run(writer)
    (outcome,) = backfill(source, fresh_store)
    assert (outcome.verdict, outcome.action) == ("partial", "repaired")
    assert_ended_by_core(fresh_store)
    (outcome,) = backfill(source, fresh_store)
    assert outcome.action == "skipped"


def test_a_journal_of_a_run_that_was_never_created(fresh_store: str, tmp_path: Path) -> None:
    """wandb.init failed: the journal is removed and no MLflow run is created."""
    path = written(tmp_path)
    assert shipment(path, fresh_store).ship() == "empty"
    assert not path.exists()
    assert read_runs(fresh_store) == {}


def test_only_one_ships(fresh_store: str, tmp_path: Path) -> None:
    """The second shipment returns "busy" and writes nothing."""
    path = written(tmp_path, *WHOLE)
    with shipping_lock(path):
        assert shipment(path, fresh_store).ship() == "busy"
    assert read_runs(fresh_store) == {}


def test_an_mlflow_that_does_not_answer(tmp_path: Path) -> None:
    """The journal stays, and the status has the error without the password."""
    path = written(tmp_path, *WHOLE)
    uri = f"http://me:secret@127.0.0.1:{free_port()}"
    assert shipment(path, uri).ship() == "waiting"
    status = path.with_suffix(".status").read_text()
    assert "cannot be reached" in status
    assert "secret" not in status
    assert path.exists()


def test_trouble_in_the_middle_loses_and_doubles_nothing(
    fresh_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow fails at the n-th call, for each n: the next shipment finishes the run."""
    records = [run_record("r1", config={"lr": 1}, tags=("t",))]
    records += [partial_record({"a": float(n), "recall@5": n}) for n in range(3)]
    real = client.translated
    for failing in range(0, 30, 4):
        name = f"20260101_000000-r{failing}"
        records[0].run.run_id = f"r{failing}"
        path = written(tmp_path, *records, exit_record(), name=name)
        calls = iter(range(1000))

        def flaky(
            what: Any, *args: Any, _calls: Any = calls, _failing: int = failing, **kwargs: Any
        ) -> Any:
            if next(_calls) == _failing:
                what = broken
            return real(what, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(client, "translated", flaky)
            first = shipment(path, fresh_store).ship()
        assert first in ("waiting", "complete")
        assert shipment(path, fresh_store).ship() == "complete"
        run = read_runs(fresh_store)[f"r{failing}"]
        assert run.points("a") == [(0, 0.0), (1, 1.0), (2, 2.0)]
        assert run.points("recall_5") == [(0, 0.0), (1, 1.0), (2, 2.0)]
        assert (run.status, run.params, run.tags["wandb.tags"]) == (
            "FINISHED",
            {"lr": "1"},
            '["t"]',
        )
        assert run.tags["mlflow.wandb.rewrites"] == '{"name": 1}'


def broken(*_: object, **__: object) -> None:
    raise MlflowException("out of order")


def test_following_ends_with_the_trainer(
    fresh_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ships records that are appended meanwhile, and ends after the journal is closed."""
    monkeypatch.setattr(mlflow_shipment, "CORE_PATIENCE_S", 0.1)
    ours = open_journal(tmp_path, run_record("r1"), partial_record({"a": 1.0}))
    follower = shipment(ours.path, fresh_store, follow=True)
    looks = iter(range(100))
    real = follower._wait_for_more

    def look_again(progress: Any) -> bool:
        if next(looks) == 1:
            for record in (partial_record({"a": 2.0}), exit_record()):
                ours.append(RECORD, record.SerializeToString())
            ours.note(closed=True, broken=False)
            ours.close()
        return real(progress)

    monkeypatch.setattr(follower, "_wait_for_more", look_again)
    assert follower.ship() == "complete"
    assert read_runs(fresh_store)["r1"].points("a") == [(0, 1.0), (1, 2.0)]


def test_a_waiting_replicator_releases_the_journal_to_sync(tmp_path: Path) -> None:
    """A replicator that waits for MLflow releases the journal when `sync` asks for it."""
    path = written(tmp_path, *WHOLE)
    handover_file(path).touch()
    uri = f"http://127.0.0.1:{free_port()}"
    assert shipment(path, uri, keep_trying=True, follow=True).ship() == "waiting"


@pytest.mark.parametrize("homes", ["both", "mlflow"])
def test_with_mlflow_alone_wandbs_files_are_removed_after_delivery(
    fresh_store: str, tmp_path: Path, homes: str
) -> None:
    """Only the run's own folder is removed, and only with MLFLOW_WANDB_HOMES=mlflow."""
    path = written(tmp_path, *WHOLE, homes=homes)
    folder = tmp_path / "offline-run-20260101_000000-r1"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "output.log").write_text("text")
    (tmp_path / "offline-run-20260102_000000-r2").mkdir()
    assert shipment(path, fresh_store).ship() == "complete"
    assert folder.exists() is (homes == "both")
    assert (tmp_path / "offline-run-20260102_000000-r2").exists()


@pytest.mark.parametrize(
    ("kind", "resume", "records", "closed", "kept"),
    [
        ("run", True, WHOLE[:-1], False, True),
        ("run", True, WHOLE, False, True),
        ("run", True, WHOLE, "raised", True),
        ("run", True, WHOLE, True, False),
        ("run", False, WHOLE[:-1], False, False),
        ("offline-run", True, WHOLE[:-1], False, False),
    ],
    ids=[
        "killed",
        "killed in finish()",
        "finish() raised",
        "finished",
        "not to be resumed",
        "offline",
    ],
)
def test_the_journal_of_a_killed_run_that_is_resumed_is_kept(
    fresh_store: str,
    tmp_path: Path,
    kind: str,
    resume: bool,
    records: tuple[Any, ...],
    closed: bool | str,
    kept: bool,
) -> None:
    """W&B may lack its last rows, and they are in no other place: it lies in W&B's folder, for its
    owner only. Where W&B has all, or is not asked for the run again, nothing stays."""
    folder = tmp_path / f"{kind}-20260101_000000-r1"
    folder.mkdir()
    where = str(folder / "run-r1.wandb")
    path = written(
        tmp_path, *records, closed=bool(closed), uploaded=closed is True, resume=resume,
        wandb_file=where,
    )  # fmt: skip
    content = path.read_bytes()
    assert shipment(path, fresh_store).ship() == "complete"
    assert not path.exists()
    assert [(file.read_bytes(), file.stat().st_mode & 0o777) for file in folder.iterdir()] == (
        [(content, 0o600)] if kept else []
    )
    assert read_runs(fresh_store)["r1"].points("a") == [(0, 1.0), (1, 2.0)]


def test_a_run_that_another_process_resumed_goes_on(fresh_store: str, tmp_path: Path) -> None:
    """The killed process's journal is delivered beside the other and does not end the run."""
    left = written(tmp_path, *WHOLE[:2], closed=False)
    ours = open_journal(tmp_path, run_record("r1"), name="20260102_000000-r1")
    assert shipment(left, fresh_store).ship() == "complete"
    run = read_runs(fresh_store)["r1"]
    assert (run.status, run.points("a")) == ("RUNNING", [(0, 1.0)])
    ours.close()
    assert shipment(ours.path, fresh_store).ship() == "complete"
    assert read_runs(fresh_store)["r1"].status == "KILLED"


def test_a_run_ends_with_its_last_process(fresh_store: str, tmp_path: Path) -> None:
    """The order of delivery does not matter; a process whose init failed does not count."""
    killed = written(tmp_path, *WHOLE[:2], closed=False)
    last = written(tmp_path, *WHOLE, name="20260102_000000-r1")
    empty = written(tmp_path, name="20260103_000000-r1")
    for path in (empty, last, killed):
        shipment(path, fresh_store).ship()
    run = read_runs(fresh_store)["r1"]
    assert (run.status, run.tags["mlflow.wandb.state"]) == ("FINISHED", "complete")


@pytest.mark.parametrize("delivered", [True, False])
def test_a_process_that_only_joins_a_run_does_not_end_it(
    fresh_store: str, tmp_path: Path, delivered: bool
) -> None:
    """In shared mode the process that began the run ends it, though its journal is older."""
    first = written(tmp_path, *WHOLE)
    joined = written(tmp_path, *WHOLE[:2], name="20260102_000000-r1", secondary=True)
    if delivered:
        assert shipment(joined, fresh_store).ship() == "complete"
        assert read_runs(fresh_store)["r1"].status == "RUNNING"
    assert shipment(first, fresh_store).ship() == "complete"
    assert read_runs(fresh_store)["r1"].status == "FINISHED"


def test_a_run_whose_id_ends_alike_is_another_one(fresh_store: str, tmp_path: Path) -> None:
    """The journal of a run whose id only ends alike does not count as a resumption."""
    left = written(tmp_path, *WHOLE[:2], closed=False)
    other = open_journal(tmp_path, run_record("other-r1"), name="20260102_000000-other-r1")
    assert shipment(left, fresh_store).ship() == "complete"
    assert read_runs(fresh_store)["r1"].status == "KILLED"
    other.close()


@pytest.mark.parametrize("delivered", [False, True])
def test_a_later_journal_of_the_run_says_how_it_ends(tmp_path: Path, delivered: bool) -> None:
    """Whatever is behind the run's id in its name, also when its status alone is left; one of
    another run, whose id begins alike, or of a process that decides nothing does not."""
    first = written(tmp_path, *WHOLE, name="20260101_000000-r1-rank_0", run_id="r1")
    others = [
        written(tmp_path, *WHOLE, name="20260101_000001-r1-rank_1", run_id="r1", secondary=True),
        written(tmp_path, *WHOLE, name="20260101_000002-r1-b"),
        written(tmp_path, *WHOLE, name="20260101_000003-or1"),
    ]
    later = written(tmp_path, *WHOLE, name="20260101_000004-r1-rank_0", run_id="r1")
    if delivered:
        for path in (*others, later):
            header = read_header(path)
            known = {"wandb_run_id": header["run_id"], "state": "complete"}
            write_status(path, {**known, "secondary": bool(header.get("secondary"))})
            path.unlink()
    assert was_resumed(first, "r1")
    later.unlink(missing_ok=True)
    later.with_suffix(".status").unlink(missing_ok=True)
    assert not was_resumed(first, "r1")
