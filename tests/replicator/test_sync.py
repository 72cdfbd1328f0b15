"""Deliver the journals that earlier processes left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin.journal import frames
from mlflow_wandb_plugin.journal.journal_locks import shipping_lock
from mlflow_wandb_plugin.journal.writer import Journal
from mlflow_wandb_plugin.replicator import sync
from mlflow_wandb_plugin.replicator.mlflow_shipment import MlflowShipment
from mlflow_wandb_plugin.replicator.sync import deliver, find_journals
from tests.replicator.test_mlflow_shipment import WHOLE, open_journal, written
from tests.support.mlflow_state import read_runs
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
    """A damaged file, an incomplete header and a missing file each give an error."""
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
        junk: ("failed", True), bare: ("failed", True), gone: ("failed", True),
        good: ("complete", False),
    }  # fmt: skip
    assert list(folder.glob("*.handover")) == []


def test_each_run_goes_to_the_mlflow_of_its_header(
    fresh_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header has no password: the environment's URI is used if it is the same MLflow."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host")
    assert sync._tracking_uri("http://host", "") == "http://me:secret@host"
    assert sync._tracking_uri("http://other", "") == "http://other"
    assert sync._tracking_uri("http://other", "sqlite:///x") == "sqlite:///x"
    assert sync._tracking_uri("", "") == "http://me:secret@host"
    path = written(tmp_path, *WHOLE, tracking_uri=fresh_store, experiment="E {project}")
    assert [delivery.state for delivery in deliver([path])] == ["complete"]


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
