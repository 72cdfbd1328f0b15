"""Journals of an outbox that are open for writing, and the kept content of files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from mlflow_wandb_plugin.errors import JournalError
from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.journal_locks import trainer_alive
from mlflow_wandb_plugin.store import journal_writers
from mlflow_wandb_plugin.store.journal_writers import Journals, RunFiles
from tests.support.outboxes import read_journal
from tests.support.processes import wait_until


def payload(number: int) -> bytes:
    return outbox.encode("untag", key=str(number))


def keys(path: Path) -> list[str]:
    return [operation["key"] for operation in read_journal(path).operations]


def test_journal_stays_locked_until_the_run_ends(tmp_path: Path) -> None:
    """An open journal has a live writer; after its end it can be opened again."""
    writer = Journals(tmp_path, closes_idle=False)
    writer.append("run", {"born": "mlflow"}, payload(0))
    path = writer.path("run")
    assert trainer_alive(path)
    writer.close("run")
    assert not trainer_alive(path)
    writer.append("run", {"born": "mlflow"}, payload(1))
    assert trainer_alive(path)
    assert keys(path) == ["0", "1"]
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    writer.close("run")


def test_removed_journal_is_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that opens a journal while it is removed does not write to the removed file."""
    opened: list[str] = []
    original = journal_writers.Journal

    class Raced(original):
        def __init__(self, path: Path, header: dict[str, str]) -> None:
            super().__init__(path, header)
            opened.append(path.name)
            if len(opened) < 3:
                path.unlink()

    monkeypatch.setattr(journal_writers, "Journal", Raced)
    writer = Journals(tmp_path, closes_idle=False)
    writer.append("run", {}, payload(7))
    assert len(opened) == 3
    assert keys(writer.path("run")) == ["7"]
    writer.close("run")


def test_number_of_open_journals_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal with the oldest write is closed, and opens again when it is needed."""
    monkeypatch.setattr(journal_writers, "OPEN_AT_MOST", 2)
    writer = Journals(tmp_path, closes_idle=False)
    for run in ("a", "b", "a", "c"):
        writer.append(run, {}, payload(1))
    alive = [run for run in "abc" if trainer_alive(writer.path(run))]
    assert alive == ["a", "c"]
    writer.append("b", {}, payload(2))
    assert keys(writer.path("b")) == ["1", "2"]
    writer.close_idle(-1)
    assert not any(trainer_alive(writer.path(run)) for run in "abc")


def test_server_closes_idle_journals_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No further request is needed: most runs are ended by another worker."""
    monkeypatch.setattr(journal_writers, "IDLE_S", 0.2)
    writer = Journals(tmp_path, closes_idle=True)
    monkeypatch.setattr(writer, "close_idle", lambda: Journals.close_idle(writer, 0.2))
    writer.append("run", {}, payload(0))
    wait_until(lambda: not trainer_alive(writer.path("run")), 240)


def test_forked_child_writes_and_does_not_hold_the_parents_lock(tmp_path: Path) -> None:
    """A child opens the journal itself, and keeps none of the parent's open."""
    writer = Journals(tmp_path, closes_idle=False)
    writer.append("run", {}, payload(0))
    go_on, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            writer.append("other", {}, payload(1))
            os.read(go_on, 1)
        finally:
            os._exit(0)
    try:
        wait_until(lambda: writer.path("other").exists() and keys(writer.path("other")), 240)
        writer.close("run")
        assert not trainer_alive(writer.path("run"))
        assert trainer_alive(writer.path("other"))
    finally:
        os.write(told, b"x")
        os.waitpid(pid, 0)
        os.close(go_on)
        os.close(told)
    assert keys(writer.path("other")) == ["1"]


def test_unwritable_folder_is_a_journal_error(tmp_path: Path) -> None:
    """The message has the path of the file that is in the folder's place."""
    (tmp_path / "file").write_text("")
    writer = Journals(tmp_path / "file", closes_idle=False)
    with pytest.raises(JournalError, match="cannot write the journal"):
        writer.append("run", {}, payload(0))


def test_files_that_may_change_are_copied(tmp_path: Path) -> None:
    """A user's own file, in the temporary folder too, is copied; what MLflow stored is linked."""
    folder = tmp_path / "r.files"
    files = RunFiles(folder)
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "model.bin")
        file.write_bytes(b"before")
        linked = folder / files.keep(file, stored=True)
        copied = folder / files.keep(file, stored=False)
        assert linked.stat().st_ino == file.stat().st_ino
        file.write_bytes(b"after")
    assert copied.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a/b.PNG", ".PNG"), ("MLmodel", ""), ("x.tar.gz", ".gz"), ("x.?y", ""), (".bashrc", "")],
)
def test_kept_files_keep_their_extension(tmp_path: Path, name: str, suffix: str) -> None:
    """W&B tells the format of an image from it."""
    with RunFiles(tmp_path / "r.files").open_new(name) as file:
        file.write(b"content")
    [kept] = (tmp_path / "r.files").iterdir()
    assert kept.suffix == suffix
