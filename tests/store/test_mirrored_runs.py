"""Which runs a process mirrors, and what happens when it cannot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.journal_locks import trainer_alive
from mlflow_wandb_plugin.journal.status_file import write_status
from mlflow_wandb_plugin.store import mirrored_runs
from tests.store.conftest import Sent
from tests.support.environment import isolated
from tests.support.modes import no_umask, open_to_others
from tests.support.outboxes import JournalContent, no_replicator
from tests.support.processes import run_script
from tests.support.stores import copy_store

SentOf = Callable[[str], JournalContent]


def test_new_run_has_the_tags_of_its_mirror(
    mirrored: str, sent_of: SentOf, fresh_process: Path
) -> None:
    """It is created with the tags of its outbox, its origin and its W&B project."""
    with mlflow.start_run() as run:
        tags = MlflowClient().get_run(run.info.run_id).data.tags
    owner = (fresh_process / "owner").read_text().strip()
    assert tags[identity.OWNER] == f"{owner}-client"
    assert tags[identity.ORIGIN] == "mirror"
    assert tags[identity.PROJECT] == "Default"
    assert identity.ENTITY not in tags
    assert sent_of(run.info.run_id).tags[identity.OWNER] == tags[identity.OWNER]


@pytest.mark.parametrize("variable", ["MLFLOW_WANDB_MIRROR_ENTITY", "WANDB_ENTITY"])
def test_project_and_entity_are_settings(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, sent: Sent, variable: str
) -> None:
    """The project is a template; the entity is a setting of ours or of wandb's."""
    monkeypatch.setenv("MLFLOW_WANDB_MIRROR_PROJECT", "from mlflow/{experiment}")
    monkeypatch.setenv(variable, "team")
    mlflow.set_tracking_uri(f"wandb+{sqlite_uri}")
    mlflow.set_experiment("a/b: c?")
    with mlflow.start_run():
        pass
    [run] = sent().values()
    assert run.header["project"] == "from mlflow-a-b- c"
    assert run.header["entity"] == run.tags[identity.ENTITY] == "team"


@pytest.mark.parametrize(
    "tags", [{identity.OWNER: "another-client"}, {identity.ORIGIN: "dual"},
             {identity.ORIGIN: "backfill", identity.RUN_ID: "x"}]
)  # fmt: skip
def test_run_of_another_owner_is_not_mirrored(
    mirrored: str, sent: Sent, tags: dict[str, str]
) -> None:
    """A run of another outbox or from W&B gets no tags and no journal."""
    client = MlflowClient()
    run = client.create_run("0", tags=tags)
    client.log_metric(run.info.run_id, "x", 1)
    client.log_text(run.info.run_id, "text", "text.txt")
    mirrored_runs._mirror = None
    client.log_metric(run.info.run_id, "x", 2)
    assert not sent()
    ours = {
        key
        for key in client.get_run(run.info.run_id).data.tags
        if key.startswith(("wandb.", "mlflow.wandb."))
    }
    assert ours == set(tags)


def test_client_warns_when_another_outbox_has_the_run(
    mirrored: str, caplog: pytest.LogCaptureFixture
) -> None:
    """There is one warning that what this process logs stays in MLflow."""
    client = MlflowClient()
    run_id = client.create_run("0", tags={identity.OWNER: "another-client"}).info.run_id
    mirrored_runs._mirror = None
    client.log_metric(run_id, "x", 1)
    client.log_metric(run_id, "x", 2)
    assert caplog.text.count("is mirrored into W&B by another-client") == 1


def test_run_that_was_created_without_a_mirror_is_adopted(sqlite_uri: str, sent_of: SentOf) -> None:
    """It is mirrored with its latest values; the points before are counted as lost."""
    plain = MlflowClient(sqlite_uri)
    run_id = plain.create_run("0", run_name="old", tags={"k": "v"}, start_time=5).info.run_id
    plain.log_param(run_id, "p", 1)
    for step in range(3):
        plain.log_metric(run_id, "x", step / 2, step=step, timestamp=step)
    mlflow.set_tracking_uri(f"wandb+{sqlite_uri}")
    MlflowClient().log_metric(run_id, "x", 9, step=9, timestamp=9)
    run = sent_of(run_id)
    assert [operation["op"] for operation in run.operations] == ["create", "batch", "lost", "batch"]
    assert run.of("create")[0]["start_time"] == 5
    assert (run.name, run.params, run.tags["k"]) == ("old", {"p": "1"}, "v")
    assert run.metrics == {"x": [(1.0, 2, 2), (9.0, 9, 9)]}
    assert sum(run.lost.values()) == 1
    assert MlflowClient().get_run(run_id).data.tags[identity.OWNER].endswith("-client")


def test_next_process_goes_on_with_its_run(mirrored: str, sent_of: SentOf) -> None:
    """The owner is the outbox and not the process: a resumed run is journalled."""
    with mlflow.start_run() as run:
        mlflow.log_param("a", 1)
    mirrored_runs._mirror = None
    with mlflow.start_run(run_id=run.info.run_id):
        mlflow.log_param("b", 2)
    outgoing = sent_of(run.info.run_id)
    assert outgoing.params == {"a": "1", "b": "2"}
    assert len(outgoing.of("create")) == 1
    assert [update["status"] for update in outgoing.of("update")] == [
        "FINISHED", "RUNNING", "FINISHED"
    ]  # fmt: skip


def test_end_of_a_run_closes_its_journal(mirrored: str, fresh_process: Path) -> None:
    """The journal is closed when the run ends, before the script does."""
    with mlflow.start_run() as run:
        path = fresh_process / f"{run.info.run_id}.journal"
        assert trainer_alive(path)
    assert not trainer_alive(path)


def test_forked_child_logs_into_the_same_run(mirrored: str, sent_of: SentOf) -> None:
    """Parent and child append complete operations to one journal."""
    from mlflow_wandb_plugin.store.mirrored_runs import current_mirror

    with mlflow.start_run() as run:
        ours = current_mirror().run(None, run.info.run_id)
        assert ours is not None
        pid = os.fork()
        if pid == 0:
            try:
                ours.append("batch", metrics=[["child", 1.0, 1, 1]], params={}, tags={})
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        mlflow.log_metric("parent", 2.0)
    assert set(sent_of(run.info.run_id).metrics) == {"child", "parent"}


def test_unwritable_outbox_gives_a_warning(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """MLflow has everything, there is a warning, and nothing fails."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_WANDB_JOURNAL_DIR", str(tmp_path / "file"))
    mlflow.set_tracking_uri(f"wandb+{sqlite_uri}")
    with mlflow.start_run() as run:
        mlflow.log_metric("x", 1)
        mlflow.log_text("text", "text.txt")
    assert MlflowClient().get_run(run.info.run_id).data.metrics == {"x": 1}
    assert "cannot write the outbox" in caplog.text


@pytest.mark.parametrize("room", [1_000_000, 0])
def test_operations_that_cannot_be_journalled_wait_or_are_counted(
    mirrored: str, fresh_process: Path, sent_of: SentOf, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, room: int,
) -> None:  # fmt: skip
    """When there is space again, the journal has what waited in memory, in its order, and the
    number of operations for which there was no room."""
    monkeypatch.setattr(mirrored_runs, "MOST_WAITING_BYTES", room)
    real, full = os.write, True

    def write(fd: int, data: bytes) -> int:
        if full and b'"op":' in data:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    with mlflow.start_run() as run:
        with monkeypatch.context() as patched:
            patched.setattr("mlflow_wandb_plugin.journal.writer.os.write", write)
            mlflow.log_metric("x", 1)
            mlflow.log_param("p", 1)
        full = False
        mlflow.log_metric("x", 2, step=2)
    outgoing = sent_of(run.info.run_id)
    lost = {} if room else {"operations that the journal did not take": 2}
    assert outgoing.lost == lost
    assert [point[0] for point in outgoing.metrics["x"]] == ([1, 2] if room else [2])
    assert outgoing.params == ({"p": "1"} if room else {})
    assert caplog.text.count("No space left on device") == 1


def test_trouble_in_delivery_is_shown_once(
    mirrored: str, fresh_process: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The error in the status file is shown once, with the command that delivers."""
    with mlflow.start_run() as run:
        path = fresh_process / f"{run.info.run_id}.journal"
        status = {"state": "waiting", "error": "W&B refused the API key"}
        write_status(path, status)
        mlflow.log_metric("x", 1)
    assert caplog.text.count("W&B refused the API key") == 1
    assert "mlflow-wandb sync" in caplog.text


def test_trouble_of_earlier_runs_is_shown(
    mirrored: str, fresh_process: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next script shows the error of a run that ended before it was known."""
    outbox.write_trouble(fresh_process, "W&B did not answer")
    with mlflow.start_run():
        mlflow.log_metric("x", 1)
    assert caplog.text.count("earlier runs wait for W&B: W&B did not answer") == 1


@pytest.mark.parametrize(
    ("more", "count"),
    [({}, 1), ({"WANDB_API_KEY": "k" * 40}, 0), ({"WANDB_MODE": "offline"}, 0)],
    ids=["no key", "a key", "offline"],
)
def test_a_short_script_without_a_key_gets_a_warning(
    more: dict[str, str], count: int, tmp_path: Path, empty_store: Path
) -> None:
    """One line on standard error says so; wandb is not imported for it."""
    uri = copy_store(empty_store, tmp_path / "mlflow.db")
    env = isolated(tmp_path, MLFLOW_TRACKING_URI=f"wandb+{uri}", **more)
    if "WANDB_MODE" not in more:
        del env["WANDB_MODE"]
    code = """
import sys, mlflow
for _ in range(2):
    with mlflow.start_run():
        mlflow.log_metric("x", 1)
print("wandb" in sys.modules)
"""
    with no_replicator(tmp_path / "work" / "wandb" / "mlflow"):
        done = run_script(code, env, tmp_path / "work")
    assert done.stdout == "False\n"
    told = [line for line in done.stderr.splitlines() if "mlflow-wandb" in line]
    assert len(told) == count, told
    assert all("no API key" in line and "mlflow-wandb sync" in line for line in told)


def test_deleted_file_is_counted(mirrored: str, tmp_path: Path, sent_of: SentOf) -> None:
    """A file that was deleted before it was copied is counted with its path."""
    with mlflow.start_run() as run:
        ours = mirrored_runs.current_mirror().run(None, run.info.run_id)
        assert ours is not None
        ours.add_file(tmp_path / "gone.txt", "a/gone.txt", None, False)
    assert list(sent_of(run.info.run_id).lost) == ["file a/gone.txt: No such file or directory"]


def test_passwords_stay_out(
    mirrored: str, fresh_process: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header has the store's URI without its credentials."""
    from mlflow.tracking._tracking_service import utils

    from mlflow_wandb_plugin.store import builders

    builders.mirrored_tracking(utils._get_store(), "postgresql://user:b9d0c4e7@h/d")
    run = MlflowClient().create_run("0")
    MlflowClient().set_tag(run.info.run_id, "k", "v")
    text = (fresh_process / f"{run.info.run_id}.journal").read_bytes()
    assert b"postgresql://" in text
    assert b"b9d0c4e7" not in text


def test_only_the_owner_may_read_the_outbox(
    empty_store: Path, fresh_process: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders and files of the outbox at its default place, with any umask."""
    folder = tmp_path / "wandb" / "mlflow"
    monkeypatch.delenv("MLFLOW_WANDB_JOURNAL_DIR")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    (tmp_path / "own.txt").write_text("own")
    with no_umask(), no_replicator(folder):
        folder.chmod(0o777)
        mlflow.set_tracking_uri(f"wandb+{copy_store(empty_store, tmp_path / 'mlflow.db')}")
        with mlflow.start_run():
            mlflow.log_metric("m", 1.0)
            files = mirrored_runs.current_mirror().run(None, mlflow.active_run().info.run_id).files
            files.keep(tmp_path / "own.txt", stored=False)
            with files.open_new("a.txt") as file:
                file.write(b"streamed")
        outbox.write_trouble(folder, "trouble")
    assert {path.suffix for path in folder.rglob("*")} >= {".journal", ".files", ""}
    assert open_to_others(folder) == []
