"""The named pipe by which training processes send requests to the helper process of a folder.

The helper reads it, and all processes that write journals in the folder hold it open for writing.
So a process notices the end of the helper, and the helper notices that all of them have ended, also
after ``kill -9``. What is written into it is never on disk: a tracking URI may have a password.

The pipe is in the folder itself, or, where its file system has no named pipes, in a private folder
for temporary files. Its name depends on the host and on the credentials in the environment: a
helper has those of the process that started it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import select
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.locks import try_lock
from mlflow_wandb_plugin.core.private_files import FILE_MODE, private_folder

SUFFIX = ".pipe"
FORMAT = 1
"""Of the requests: processes of another version of the package have a helper of their own."""
_CREDENTIALS = (
    "AWS_", "AZURE_", "DATABRICKS_", "GOOGLE_", "MLFLOW_S3_", "MLFLOW_TRACKING_", "SSL_CERT_",
    "HOME", "NETRC", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "MLFLOW_WORKSPACE",
    "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_CONFIG_DIR", "WANDB_IDENTITY_TOKEN_FILE",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
)  # fmt: skip
"""Beginnings of the names of environment variables that decide how a server or store is reached."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MOST_BYTES = 1 << 16


def pipe_path(folder: Path, tracking_uri: str) -> Path:
    """Return the pipe of the helper that delivers what this process journals in ``folder``.

    Args:
        tracking_uri: where to; empty means MLflow's default, which depends on the working
            directory.
    """
    deciding = {
        name: value
        for name, value in os.environ.items()
        if name.upper().startswith(_CREDENTIALS) and name != "MLFLOW_TRACKING_URI"
    }
    place = "" if tracking_uri else os.getcwd()
    text = json.dumps([FORMAT, sorted(deciding.items()), place, sys.executable, _host()])
    # Whoever gets a copy of the folder cannot find out a password by trial.
    key = hashlib.blake2b(_boot_id()).digest()
    name = hashlib.blake2b(text.encode(errors="surrogateescape"), key=key, digest_size=6)
    return folder / f"helper-{name.hexdigest()}{SUFFIX}"


def _host() -> str:
    return os.uname().nodename


def _boot_id() -> bytes:
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_bytes()
    return _host().encode()


class RequestReader:
    """The helper's end of a pipe.

    Attributes:
        connected: whether a process holds the other end, as of the last `read`.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self.connected = False
        self._fd = fd
        self._path = path
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._rest = b""

    def read(self, wait_s: float) -> Iterator[dict[str, Any]]:
        """Wait for requests at most ``wait_s`` seconds, and yield them."""
        try:
            data = os.read(self._fd, _MOST_BYTES)
        except BlockingIOError:
            self.connected = True
            self._poll.poll(wait_s * 1000)
            return
        self.connected = bool(data)
        if not data:
            time.sleep(wait_s)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            request: Any = None
            with contextlib.suppress(ValueError):
                request = json.loads(line)
            if isinstance(request, dict):
                yield request

    def close(self) -> None:
        """Remove the pipe: a process that connects from now on starts another helper."""
        with contextlib.suppress(OSError):
            if _is_at(self._fd, self._path):
                self._path.unlink()
        os.close(self._fd)


def open_reader(path: Path) -> RequestReader | None:
    """Open the helper's end of the pipe ``path``; None if another process has it.

    Raises:
        OSError: the pipe cannot be made.
    """
    while True:
        found = _make(path)
        if found.is_symlink():
            found.unlink()
            continue
        fd = os.open(found, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        if not _is_private_pipe(fd):
            # It came with a folder from elsewhere: somebody else may read or write it.
            os.close(fd)
            found.unlink(missing_ok=True)
        elif not try_lock(fd):
            os.close(fd)
            return None
        elif _is_at(fd, found):
            return RequestReader(fd, found)
        else:
            os.close(fd)


def open_writer(path: Path) -> int | None:
    """Open the other end of the pipe ``path``, without waiting; None if no process reads it."""
    for place in (path, _substitute(path)):
        try:
            fd = os.open(place, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        if _is_private_pipe(fd):
            return fd
        os.close(fd)
    return None


def send(fd: int, request: Mapping[str, Any]) -> bool:
    """Write one request; False if the reader is gone, or does not read.

    The line must not be longer than a pipe writes at once (4,096 bytes), which requests are not.
    """
    line = (json.dumps(request) + "\n").encode()
    try:
        return os.write(fd, line) == len(line)
    except (BlockingIOError, BrokenPipeError):
        return False


def wait_for_end(fd: int, seconds: float) -> bool:
    """Wait at most ``seconds`` for the end of the process that reads the pipe; whether it ended."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(seconds * 1000))


def _make(path: Path) -> Path:
    """Make a pipe unless it is there; returns where it is."""
    for place in (path, _substitute(path)):
        try:
            private_folder(place.parent)
            os.mkfifo(place, FILE_MODE)
        except FileExistsError:
            return place
        except OSError as error:
            if place is path and error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS):
                # The file system has no named pipes.
                continue
            raise
        return place
    raise AssertionError("the loop returns or raises")


def _substitute(path: Path) -> Path:
    """Where the pipe is if the file system of ``path`` has no named pipes."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"mlflow-wandb-{os.geteuid()}", f"{digest}{SUFFIX}")


def _is_private_pipe(fd: int) -> bool:
    state = os.fstat(fd)
    ours = state.st_uid == os.geteuid() and not stat.S_IMODE(state.st_mode) & ~FILE_MODE
    return stat.S_ISFIFO(state.st_mode) and ours


def _is_at(fd: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
