"""A MariaDB or MySQL server of the test's own, by the programs that are installed on this machine.

Neither wants to run as root: where the tests do, it runs as ``nobody``, as in
`tests.support.postgres`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.postgres import unprivileged
from tests.support.processes import end_gently, free_port, wait_until

SERVERS = ("mariadbd", "mysqld")
INSTALLER = "mariadb-install-db"
PORTS = 3
"""How many free ports are tried: another process may take one before the server does."""


def why_not() -> str | None:
    """What this machine lacks for such a server and its driver; None if it lacks nothing."""
    if _program(*SERVERS) is None:
        return f"no MariaDB or MySQL server ({' or '.join(SERVERS)}) is installed here"
    if _program(INSTALLER) is not None and _program("my_print_defaults") is None:
        return f"{INSTALLER} needs my_print_defaults, of MariaDB's client programs"
    if importlib.util.find_spec("pymysql") is None:
        return "the driver pymysql is not installed here"
    return None


@contextlib.contextmanager
def mysql_server(*options: str) -> Iterator[str]:
    """A running server; yields the URI of its empty database, with a user and a password.

    Args:
        options: more options of the server's.

    Raises:
        AssertionError: it does not start; the message has its log.
    """
    place = Path(tempfile.mkdtemp(prefix="mysql-", dir="/tmp"))
    try:
        who = unprivileged(place)
        password = secrets.token_hex(8)
        # One statement a line: what the server does before it lets anybody in.
        (place / "first.sql").write_text(
            "CREATE DATABASE mlflow CHARACTER SET utf8mb4;\n"
            f"CREATE USER mlflow@127.0.0.1 IDENTIFIED BY '{password}';\n"
            "GRANT ALL ON *.* TO mlflow@127.0.0.1;\n"
        )
        _make_data(place, who)
        with _serving(place, who, options) as port:
            yield f"mysql+pymysql://mlflow:{password}@127.0.0.1:{port}/mlflow"
    finally:
        shutil.rmtree(place)


def _program(*names: str) -> str | None:
    """The first of these programs that is there; servers are often beside a user's PATH."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/libexec:/usr/local/sbin"
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def _make_data(place: Path, who: dict[str, Any]) -> None:
    data = f"--datadir={place / 'data'}"
    maker = _program(INSTALLER)
    command = (
        [maker, "--no-defaults", data, "--skip-test-db", "--auth-root-authentication-method=socket"]
        if maker is not None
        else [str(_program("mysqld")), "--no-defaults", "--initialize-insecure", data]
    )
    done = subprocess.run(
        command, cwd=place, env={"LC_ALL": "C", "PATH": os.environ.get("PATH", "")},
        capture_output=True, text=True, timeout=120, **who,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def _serving(place: Path, who: dict[str, Any], options: tuple[str, ...]) -> Iterator[int]:
    for _ in range(PORTS):
        process, port = _started(place, who, options)
        if process.poll() is None:
            break
    try:
        assert process.poll() is None, (place / "log").read_text()
        yield port
    finally:
        end_gently(process, signal.SIGTERM)


def _started(
    place: Path, who: dict[str, Any], options: tuple[str, ...]
) -> tuple[subprocess.Popen[bytes], int]:
    """A server that answers, or that has ended, and its port."""
    port = free_port()
    command = [
        str(_program(*SERVERS)), "--no-defaults", f"--datadir={place / 'data'}",
        f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve",
        f"--socket={place / 'socket'}", f"--pid-file={place / 'pid'}",
        f"--init-file={place / 'first.sql'}", f"--tmpdir={place}",
        "--skip-log-bin", "--innodb-flush-log-at-trx-commit=0", *options,
    ]  # fmt: skip
    with open(place / "log", "ab") as log:
        process = subprocess.Popen(
            command, cwd=place, env={"LC_ALL": "C"},
            stdout=log, stderr=log, start_new_session=True, **who,
        )  # fmt: skip
    try:
        wait_until(
            lambda: process.poll() is not None or _answers(port), 180, "the MariaDB or MySQL server"
        )
    except BaseException:
        end_gently(process, signal.SIGTERM)
        raise
    return process, port


def _answers(port: int) -> bool:
    """Whether it greets: it listens only when its first statements are done."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return bool(connection.recv(1))
    except OSError:
        return False
