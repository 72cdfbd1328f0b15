"""The named pipe between the processes that write journals and the one that delivers them."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest

from mlflow_wandb_plugin.journal import request_pipe
from mlflow_wandb_plugin.journal.request_pipe import RequestReader, open_reader, open_writer, send
from tests.support.processes import wait_until

PASSWORD = "correct-horse"


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    return request_pipe.pipe_path(tmp_path / "mlflow", "http://mlflow")


def opened(pipe: Path) -> RequestReader:
    reader = open_reader(pipe)
    assert reader is not None
    return reader


def connected(pipe: Path) -> int:
    fd = open_writer(pipe)
    assert fd is not None
    return fd


def test_one_pipe_for_each_folder_and_set_of_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What describes a run changes nothing, a password does, and its name does not show it."""
    before = request_pipe.pipe_path(tmp_path, "http://mlflow")
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    assert request_pipe.pipe_path(tmp_path, "sqlite:///another.db") == before
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    after = request_pipe.pipe_path(tmp_path, "http://mlflow")
    assert after != before
    assert after.parent == before.parent == tmp_path
    assert PASSWORD not in str(after)


def test_the_default_of_mlflow_depends_on_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a tracking URI MLflow writes below the working directory."""
    names = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        names.append((request_pipe.pipe_path(tmp_path, ""), request_pipe.pipe_path(tmp_path, "x")))
    (first, same), (second, again) = names
    assert first != second
    assert same == again


def test_requests_of_several_processes_arrive(pipe: Path) -> None:
    """They arrive in their order; the reader knows when the last process has gone."""
    reader = opened(pipe)
    assert list(reader.read(0)) == []
    assert not reader.connected
    first, second = connected(pipe), connected(pipe)
    assert send(first, {"journal": "a.journal"})
    assert send(second, {"journal": "b.journal", "tracking_uri": f"http://u:{PASSWORD}@host"})
    assert [request["journal"] for request in reader.read(0)] == ["a.journal", "b.journal"]
    os.close(first)
    assert list(reader.read(0)) == []
    assert reader.connected
    os.close(second)
    assert list(reader.read(0)) == []
    assert not reader.connected
    assert pipe.stat().st_size == 0
    reader.close()


def test_one_reader_at_a_time(pipe: Path) -> None:
    """A second one is refused; after the first one has ended, there is a new pipe."""
    reader = opened(pipe)
    assert open_reader(pipe) is None
    assert stat.S_IMODE(pipe.stat().st_mode) == 0o600
    reader.close()
    assert not pipe.exists()
    opened(pipe).close()


def test_a_writer_notices_the_end_of_the_reader(pipe: Path) -> None:
    """It waits in the operating system; sending fails without an exception."""
    assert open_writer(pipe) is None
    reader = opened(pipe)
    fd = connected(pipe)
    assert not request_pipe.wait_for_end(fd, 0)
    reader.close()
    assert request_pipe.wait_for_end(fd, 30)
    assert not send(fd, {"journal": "late.journal"})
    os.close(fd)


def test_a_reader_that_does_not_read_delays_nobody(pipe: Path) -> None:
    """When the pipe is full, a request is refused at once, and nothing of it is written."""
    reader = opened(pipe)
    fd = connected(pipe)
    sent = 0
    while send(fd, {"journal": "x" * 1000, "number": sent}):
        sent += 1
    got: list[int] = []
    wait_until(lambda: got.extend(one["number"] for one in reader.read(0)) or len(got) == sent, 30)
    assert got == list(range(sent))
    assert send(fd, {"journal": "y", "number": sent})
    os.close(fd)
    reader.close()


@pytest.mark.parametrize("kind", ["file", "open pipe", "link"])
def test_what_came_with_the_folder_is_not_used(pipe: Path, tmp_path: Path, kind: str) -> None:
    """A file, a pipe that others may write, or a link in place of the pipe gets no password."""
    pipe.parent.mkdir()
    elsewhere = tmp_path / "elsewhere"
    if kind == "file":
        pipe.write_text("")
    elif kind == "open pipe":
        os.mkfifo(pipe)
        pipe.chmod(0o666)
    else:
        elsewhere.write_text("theirs")
        pipe.symlink_to(elsewhere)
    assert open_writer(pipe) is None
    reader = opened(pipe)
    state = pipe.lstat()
    assert stat.S_ISFIFO(state.st_mode)
    assert stat.S_IMODE(state.st_mode) == 0o600
    assert kind != "link" or elsewhere.read_text() == "theirs"
    reader.close()


def test_a_file_system_without_named_pipes(
    pipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipe is then in a private folder for temporary files."""
    make = os.mkfifo

    def mkfifo(path: Path, mode: int) -> None:
        if path == pipe:
            raise OSError(errno.EPERM, "no pipes here")
        make(path, mode)

    monkeypatch.setattr(os, "mkfifo", mkfifo)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    reader = opened(pipe)
    fd = connected(pipe)
    assert send(fd, {"journal": "a.journal"})
    assert [request["journal"] for request in reader.read(0)] == ["a.journal"]
    [folder] = (tmp_path / "tmp").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    os.close(fd)
    reader.close()
    assert not list(folder.iterdir())


def test_damaged_requests_are_left_out(pipe: Path) -> None:
    """A line that is no JSON object harms no other."""
    reader = opened(pipe)
    fd = connected(pipe)
    os.write(fd, b'{"jour\n[1]\n{"journal": "a.journal"}\n{"journal"')
    assert list(reader.read(0)) == [{"journal": "a.journal"}]
    os.write(fd, b': "b.journal"}\n')
    assert list(reader.read(0)) == [{"journal": "b.journal"}]
    os.close(fd)
    reader.close()
