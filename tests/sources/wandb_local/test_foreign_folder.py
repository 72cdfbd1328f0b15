"""A wandb folder that somebody else made chooses no file of this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from mlflow_wandb_plugin import backfill
from tests.sources.wandb_local.test_source import FIRST, row, wandb_file
from tests.support.mlflow_state import RunState, read_runs
from tests.support.records import exit_record, run_record

SECRET = "the content of a file of this machine"


def artifact_record(name: str, *entries: tuple[str, str | Path]) -> Record:
    """A logged artifact with (path, local path) of each of its files."""
    record = Record()
    record.artifact.type, record.artifact.name, record.artifact.digest = "model", name, "abc"
    for path, local in entries:
        record.artifact.manifest.contents.add(path=path, digest="d", size=1, local_path=str(local))
    return record


def carried(
    uri: str, folder: Path, follow_links: bool = False
) -> tuple[RunState, dict[str, str], dict[str, str]]:
    """The replica, the text of its files by path, and the reasons of its losses by path."""
    outcomes = backfill(str(folder), uri, follow_links=follow_links)
    assert [outcome.action for outcome in outcomes] == ["migrated"], outcomes
    place = folder.parent / "downloaded"
    (run,) = read_runs(uri, place).values()
    below = place / run.run_id / "wandb"
    found = {
        path.relative_to(below).as_posix(): path.read_bytes().decode(errors="replace")
        for path in below.rglob("*")
        if path.is_file()
    }
    losses = [json.loads(line) for line in found.get("losses.jsonl", "").splitlines()]
    reasons = {loss["key"].removeprefix("wandb/"): loss["reason"] for loss in losses}
    return run, found, reasons


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    (tmp_path / "home" / ".ssh" / "key").write_text(SECRET)
    (tmp_path / "home" / "weights.bin").write_text("weights")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_links_and_paths_to_files_of_the_machine_are_losses(
    tmp_path: Path, home: Path, fresh_store: str
) -> None:
    """System files, keys in the home folder and names that leave the run's folder are counted."""
    media, entries = Record(), [("passwd", "/etc/passwd"), ("key", home / ".ssh" / "key")]
    media.files.files.add(path="media/../../../home/.ssh/key")
    log = wandb_file(
        tmp_path / "wandb", FIRST, run_record("r1"), row(0), media,
        artifact_record("m", *entries, ("weights", home / "weights.bin")), exit_record(),
    )  # fmt: skip
    files = log.parent / "files"
    files.mkdir()
    targets = {"environ": "/proc/self/environ", "passwd": "/etc/passwd", "zero": "/dev/zero",
               "key": home / ".ssh" / "key", "own": home / "weights.bin"}  # fmt: skip
    for name, target in targets.items():
        (files / name).symlink_to(target)
    os.mkfifo(files / "pipe")

    run, found, reasons = carried(fresh_store, tmp_path / "wandb")
    assert (run.status, run.points("a")) == ("FINISHED", [(0, 0.0)])
    assert found["files/own"] == "weights"
    assert found["artifacts/model/m/abc/weights"] == "weights"
    assert set(found) == {
        "files/own", "artifacts/model/m/abc/weights", "artifacts/model/m/abc.json", "config.json",
        "summary.json", "losses.jsonl",
    }  # fmt: skip
    assert SECRET not in "".join(found.values())
    refused = {f"files/{name}" for name in ("environ", "passwd", "zero", "key", "pipe")}
    refused |= {f"artifacts/model/m/abc/{name}" for name in ("passwd", "key")}
    assert refused < set(reasons)
    assert len(reasons) == len(refused) + 1
    assert "/etc/passwd is in a system folder" in reasons["files/passwd"]
    assert "hidden in the home folder" in reasons["files/key"]
    assert "not a regular file" in reasons["files/zero"]
    assert json.loads(run.tags["mlflow.wandb.losses"]) == {
        "file_not_read": 6, "artifact_file_not_read": 2,
    }  # fmt: skip


def test_a_file_of_another_user_is_read_below_the_run_folder_alone(
    tmp_path: Path, home: Path, fresh_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever extracted the folder may be another user; a link out of it is a loss."""
    log = wandb_file(tmp_path / "wandb", FIRST, run_record("r1"), row(0), exit_record())
    (log.parent / "files").mkdir()
    (log.parent / "files" / "there.txt").write_text("there")
    (log.parent / "files" / "link.txt").symlink_to(home / "weights.bin")
    monkeypatch.setattr(os, "geteuid", lambda: (home / "weights.bin").stat().st_uid + 1)
    _, found, reasons = carried(fresh_store, tmp_path / "wandb")
    assert found["files/there.txt"] == "there"
    assert "files/link.txt" not in found
    assert "of another user: pass --follow-links" in reasons["files/link.txt"]


def test_follow_links_reads_what_the_folder_names(
    tmp_path: Path, home: Path, fresh_store: str
) -> None:
    """The user knows who made the folder; names that leave it are refused all the same."""
    media = Record()
    media.files.files.add(path="media/../../../home/.ssh/key")
    log = wandb_file(
        tmp_path / "wandb", FIRST, run_record("r1"), row(0), media,
        artifact_record("m", ("key", home / ".ssh" / "key")), exit_record(),
    )  # fmt: skip
    (log.parent / "files").mkdir()
    (log.parent / "files" / "hosts").symlink_to("/etc/hosts")
    _, found, reasons = carried(fresh_store, tmp_path / "wandb", follow_links=True)
    assert found["files/hosts"] == Path("/etc/hosts").read_text()
    assert found["artifacts/model/m/abc/key"] == SECRET
    assert list(reasons.values()) == ["its name leads out of the run's folder"]


def test_a_linked_files_folder_leads_to_no_key(
    tmp_path: Path, home: Path, fresh_store: str
) -> None:
    """The whole folder of files may be a link."""
    log = wandb_file(tmp_path / "wandb", FIRST, run_record("r1"), row(0), exit_record())
    (log.parent / "files").symlink_to(home / ".ssh")
    _, found, reasons = carried(fresh_store, tmp_path / "wandb")
    assert "files/key" not in found
    assert list(reasons) == ["files/key"]


def test_an_archive_keeps_the_reason_of_a_refused_file(
    tmp_path: Path, home: Path, fresh_store: str
) -> None:
    """The loss has the same reason when the archive is carried to MLflow."""
    artifact = artifact_record("m", ("passwd", "/etc/passwd"))
    log = wandb_file(tmp_path / "wandb", FIRST, run_record("r1"), row(0), artifact, exit_record())
    (log.parent / "files").mkdir()
    (log.parent / "files" / "key").symlink_to(home / ".ssh" / "key")
    archive = f"archive:{tmp_path / 'archive'}"
    (outcome,) = backfill(str(tmp_path / "wandb"), archive)
    assert outcome.losses == {"file_not_read": 1, "artifact_file_not_read": 1}
    assert not any(
        SECRET in path.read_bytes().decode(errors="replace")
        for path in (tmp_path / "archive").rglob("*")
        if path.is_file()
    )
    backfill(archive, fresh_store)
    (run,) = read_runs(fresh_store, tmp_path / "downloaded").values()
    lost = (tmp_path / "downloaded" / run.run_id / "wandb/losses.jsonl").read_text()
    assert "hidden in the home folder" in lost
    assert "in a system folder" in lost
