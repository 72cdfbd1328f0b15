"""Deliver the journals that earlier processes left behind."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.journal import frames
from mlflow_wandb_plugin.journal.journal_locks import shipping_lock
from mlflow_wandb_plugin.journal.reader import read_header
from mlflow_wandb_plugin.journal.status_file import write_status
from mlflow_wandb_plugin.journal.writer import Journal
from mlflow_wandb_plugin.replicator import mlflow_shipment, sync
from mlflow_wandb_plugin.replicator.mlflow_shipment import MlflowShipment, handover_file
from mlflow_wandb_plugin.replicator.sync import deliver, find_journals
from mlflow_wandb_plugin.sources.wandb_local.run_log import is_open_elsewhere
from mlflow_wandb_plugin.wandb_log.log_writer import LogWriter
from tests.replicator.test_mlflow_shipment import WHOLE, open_journal, opened_by_core, written
from tests.support.mirrored import JournalledRun
from tests.support.mlflow_state import read_runs
from tests.support.processes import free_port, started, wait_until
from tests.support.records import exit_record, partial_record, run_record


@pytest.mark.parametrize("place", [".", "wandb", "wandb/mlflow"])
def test_journals_are_found_from_several_folders(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is found once, also those of the folder that is set for journals."""
    inside = written(tmp_path / "wandb")
    elsewhere = written(tmp_path / "elsewhere", name="20260102_000000-r2")
    assert find_journals(tmp_path / place) == [inside]
    monkeypatch.setenv("MLFLOW_WANDB_JOURNAL_DIR", str(elsewhere.parent))
    assert find_journals(tmp_path / place) == [inside, elsewhere]


def test_a_delivered_journal_is_known_by_its_status(fresh_store: str, tmp_path: Path) -> None:
    """`status` shows it, and `sync` has nothing to do."""
    path = written(tmp_path, *WHOLE)
    (delivery,) = deliver([path], fresh_store)
    assert (delivery.state, delivery.points, delivery.error) == ("complete", 2, "")
    assert delivery.run_id == read_runs(fresh_store)["r1"].run_id
    assert find_journals(tmp_path) == []
    assert find_journals(tmp_path, delivered=True) == [path]


def test_one_journal_that_cannot_be_delivered_does_not_stop_the_others(
    fresh_store: str, tmp_path: Path
) -> None:
    """A damaged file and an incomplete header give an error each; a file that is no longer there
    was delivered by another process."""
    folder = tmp_path / "mlflow"
    good = written(tmp_path, *WHOLE)
    junk = folder / "junk.journal"
    junk.write_bytes(b"no journal")
    bare = folder / "bare.journal"
    Journal(bare, {}).close()
    gone = folder / "gone.journal"
    states = {
        d.journal: (d.state, bool(d.error)) for d in deliver([junk, bare, gone, good], fresh_store)
    }
    assert states == {
        junk: ("failed", True), bare: ("failed", True), good: ("complete", False),
    }  # fmt: skip
    assert list(folder.glob("*.handover")) == []


def test_a_journal_goes_to_this_processs_mlflow_or_to_the_one_that_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A header has no password: this process's URI is used if it is the same MLflow. Another one
    is asked for."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host")
    assert sync._tracking_uri("http://host", "") == "http://me:secret@host"
    assert sync._tracking_uri("http://host/", "") == "http://me:secret@host"
    assert sync._tracking_uri("", "") == "http://me:secret@host"
    assert sync._tracking_uri("http://other", "sqlite:///x") == "sqlite:///x"
    with pytest.raises(UsageError, match="sync --to http://other`") as refused:
        sync._tracking_uri("http://other", "")
    assert "secret" not in str(refused.value)
    monkeypatch.setenv("MLFLOW_WANDB_TRACKING_URI", "http://other")
    assert sync._tracking_uri("http://other", "") == "http://other"


def test_the_server_that_a_journal_names_gets_no_request(
    fresh_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody connects to it, and the journal stays; with --to it is delivered elsewhere."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        uri = f"http://127.0.0.1:{listening.getsockname()[1]}"
        path = written(tmp_path, *WHOLE, tracking_uri=uri)
        (delivery,) = deliver([path])
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert (delivery.state, f"--to {uri}" in delivery.error) == ("failed", True)
    assert path.exists()
    assert [delivery.state for delivery in deliver([path], fresh_store)] == ["complete"]


@pytest.fixture
def unfinished(tmp_path: Path) -> tuple[Path, Path]:
    """The journal of a process that ended without finish(), and wandb-core's log of its run."""
    path = written(tmp_path, *WHOLE[:3], closed=False)
    log = Path(read_header(path)["wandb_file"])
    log.parent.mkdir()
    log.touch()
    return path, log


def test_the_run_of_a_process_that_was_just_killed_is_ended(
    fresh_store: str, unfinished: tuple[Path, Path], tmp_path: Path
) -> None:
    """wandb-core outlives its training process for a moment: `sync` waits for its end."""
    path, log = unfinished
    ends_a_second_after_sync_began = (
        "import pathlib, sys, time; file = open(sys.argv[1], 'ab')\n"
        "while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.05)\n"
        "time.sleep(1)"
    )
    command = [sys.executable, "-c", ends_a_second_after_sync_began, log, handover_file(path)]
    with started([str(word) for word in command], os.environ, tmp_path):
        wait_until(lambda: is_open_elsewhere(log), what="wandb-core")
        (delivery,) = deliver([path], fresh_store)
    run = read_runs(fresh_store)["r1"]
    assert (delivery.state, run.status) == ("complete", "KILLED")


def test_a_run_whose_wandb_core_stays_goes_on(
    fresh_store: str, unfinished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ended without finish() leaves its run to the wandb-core of its parent."""
    path, log = unfinished
    monkeypatch.setattr(sync, "CORE_END_PATIENCE_S", 0.0)
    with opened_by_core(log):
        (delivery,) = deliver([path], fresh_store)
    run = read_runs(fresh_store)["r1"]
    assert (delivery.state, run.status) == ("partial", "RUNNING")
    assert path.exists()


def run_folder(folder: Path) -> Path:
    """A run folder as wandb leaves it, with a file and the exit of run r1."""
    files = folder / "offline-run-20260101_000000-r1" / "files"
    files.mkdir(parents=True)
    (files / "output.log").write_text("private")
    with LogWriter(files.parent / "run-r1.wandb") as writer:
        for record in (run_record("r1"), exit_record()):
            writer.append(record.SerializeToString())
    return files.parent


def files_in_mlflow(uri: str, folder: Path) -> set[str]:
    return set(read_runs(uri, folder)["r1"].artifacts)


@pytest.mark.parametrize("named", ["another folder", "another run", "upwards"])
def test_a_journal_cannot_name_the_log_of_another_folder(
    fresh_store: str, tmp_path: Path, named: str
) -> None:
    """Nothing there is read, uploaded or removed, and the message says what to do."""
    private = run_folder(tmp_path / "private")
    log = private / "run-r1.wandb"
    if named == "another run":
        log = private.rename(private.with_name("offline-run-20260101_000000-r2")) / "run-r1.wandb"
        private = log.parent
    elif named == "upwards":
        log = tmp_path / "given" / ".." / "run-r1.wandb"
    path = written(tmp_path / "given", *WHOLE, wandb_file=str(log), homes="mlflow")
    (delivery,) = deliver([path], fresh_store)
    assert delivery.state == "failed"
    assert "names" in delivery.error
    assert read_runs(fresh_store) == {}
    assert (private / "files" / "output.log").read_text() == "private"


@pytest.mark.parametrize("linked", ["folder", "log"])
def test_a_run_folder_that_is_a_link_is_not_followed(
    fresh_store: str, tmp_path: Path, linked: str
) -> None:
    """The run's folder, or its log, is a symbolic link to one of the user's."""
    private = run_folder(tmp_path / "private")
    path = written(tmp_path / "given", *WHOLE)
    beside = tmp_path / "given" / private.name
    if linked == "folder":
        beside.symlink_to(private)
    else:
        beside.mkdir()
        (beside / "run-r1.wandb").symlink_to(private / "run-r1.wandb")
    (delivery,) = deliver([path], fresh_store)
    assert (delivery.state, "symbolic link" in delivery.error) == ("failed", True)
    assert read_runs(fresh_store) == {}


def test_a_wandb_folder_that_was_moved_is_delivered_from_its_new_place(
    fresh_store: str, tmp_path: Path
) -> None:
    """The path in the header no longer exists; the run's folder is beside the journal."""
    run_folder(tmp_path / "old")
    written(tmp_path / "old", *WHOLE)
    (tmp_path / "old").rename(tmp_path / "new")
    (path,) = find_journals(tmp_path / "new")
    assert [delivery.state for delivery in deliver([path], fresh_store)] == ["complete"]
    assert "wandb/files/output.log" in files_in_mlflow(fresh_store, tmp_path / "down")


def test_only_the_users_own_folder_of_journals_may_name_logs_elsewhere(
    fresh_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With MLFLOW_WANDB_JOURNAL_DIR the journals are not beside the run folders."""
    log = run_folder(tmp_path / "wandb") / "run-r1.wandb"
    path = written(tmp_path / "apart", *WHOLE, wandb_file=str(log))
    (delivery,) = deliver([path], fresh_store)
    assert (delivery.state, "MLFLOW_WANDB_JOURNAL_DIR=" in delivery.error) == ("failed", True)
    monkeypatch.setenv("MLFLOW_WANDB_JOURNAL_DIR", str(path.parent))
    assert [delivery.state for delivery in deliver([path], fresh_store)] == ["complete"]
    assert "wandb/files/output.log" in files_in_mlflow(fresh_store, tmp_path / "down")


def test_a_trainer_at_work_is_left_alone(fresh_store: str, tmp_path: Path) -> None:
    """A journal whose replicator runs is not shipped by `sync`."""
    ours = open_journal(tmp_path, run_record("r1"), partial_record({"a": 1.0}))
    with shipping_lock(ours.path):
        (delivery,) = deliver([ours.path], fresh_store)
    assert delivery.state == "live"
    ours.append(frames.RECORD, exit_record().SerializeToString())
    ours.close()
    assert [delivery.state for delivery in deliver([ours.path], fresh_store)] == ["complete"]


def test_the_config_in_a_journal_cannot_choose_a_run(fresh_store: str, tmp_path: Path) -> None:
    """`sync` delivers journals of anybody: a run that a journal's config names stays as it is."""
    client = MlflowClient(fresh_store)
    victim = client.create_run("0", run_name="champion").info.run_id
    client.set_terminated(victim, "FINISHED", 9)
    before = client.get_run(victim).to_dictionary()
    config = {"mlflow_run_id": victim, "mlflow_run_given": True}
    path = written(tmp_path, run_record("r1", config=config), *WHOLE[1:])
    (delivery,) = deliver([path], fresh_store)
    assert delivery.state == "complete"
    assert delivery.run_id != victim
    assert client.get_run(victim).to_dictionary() == before


def test_the_training_process_may_choose_its_run(fresh_store: str, tmp_path: Path) -> None:
    """The replicator that the training process asks writes into the run that its config names,
    and `sync` later continues that run, which has the tags by then."""
    client = MlflowClient(fresh_store)
    given = client.create_run("0", run_name="mine").info.run_id
    config = {"mlflow_run_id": given, "mlflow_run_given": True}
    ours = open_journal(tmp_path, run_record("r1", config=config), partial_record({"a": 1.0}))
    shipment = MlflowShipment(ours.path, fresh_store, "{project}", False, lambda: False, own=True)
    assert shipment.ship() == "partial"
    ours.append(frames.RECORD, exit_record().SerializeToString())
    ours.close()
    (delivery,) = deliver([ours.path], fresh_store)
    assert (delivery.state, delivery.run_id) == ("complete", given)
    assert client.get_run(given).data.metrics == {"a": 1.0}


def test_a_target_that_does_not_answer_is_asked_once(
    fresh_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its other journals wait without being tried; those of another target are delivered."""
    monkeypatch.setattr(sync, "TARGET_PATIENCE_S", 1.0)
    asked: list[str] = []
    check = mlflow_shipment.check_reachable
    monkeypatch.setattr(
        mlflow_shipment, "check_reachable", lambda uri: asked.append(uri) or check(uri)
    )
    away = f"http://127.0.0.1:{free_port()}"
    left = [written(tmp_path, *WHOLE, name=f"20260101_00000{i}-r{i}") for i in range(5)]
    started: list[Path] = []
    deliveries = list(deliver(left, away, started.append))
    assert [delivery.state for delivery in deliveries] == ["waiting"] * 5
    assert all("MLflow at" in delivery.error for delivery in deliveries)
    assert {delivery.target for delivery in deliveries} == {away}
    assert started == left
    # Until the patience ended, and each time for the first journal.
    assert len(asked) <= 4
    assert all(path.exists() for path in left)


def test_journals_are_delivered_target_by_target(
    fresh_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those for W&B come after those for MLflow, whatever their names are; with wandb disabled the
    second one is not tried."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    paths = []
    for number in (1, 3):
        run = JournalledRun(tmp_path / "mirror", f"2026010{number}_000000")
        run.create()
        run.end()
        paths.append(run.path)
    paths.insert(1, written(tmp_path, *WHOLE, name="20260102_000000-r1"))
    paths.insert(0, written(tmp_path, *WHOLE, name="20260100_000000-r0"))
    found = [(each.home, each.state) for each in deliver(paths, fresh_store)]
    assert found == [("MLflow", "complete")] * 2 + [("W&B", "waiting")] * 2


def test_a_quiet_run_of_a_server_that_a_replicator_follows_is_live(tmp_path: Path) -> None:
    """The replicator holds such a journal for half an hour: `sync` does not wait for it, and a
    journal that was written a moment ago is not taken for delivered."""
    run = JournalledRun(tmp_path, "followed", role="server")
    run.create()
    run.close()
    write_status(run.path, {"state": "live"})
    header = read_header(run.path)
    assert not sync._mirror_goes_on(run.path, header)
    os.utime(run.path, (0, 0))
    with shipping_lock(run.path) as locked:
        assert locked
        (delivery,) = deliver([run.path])
    assert (delivery.state, delivery.home) == ("live", "W&B")
    assert not sync._mirror_goes_on(run.path, header | {"role": "client"})
