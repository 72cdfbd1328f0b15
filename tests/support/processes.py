"""Child processes in groups of their own, ended by pid whatever happens."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

SERVER_START_S = 300
"""A machine under load takes minutes to start an MLflow server."""


def run_script(
    code: str,
    env: Mapping[str, str],
    cwd: Path,
    timeout: float = 120,
    check: bool = True,
    python: str = sys.executable,
) -> subprocess.CompletedProcess[str]:
    """Run Python source in a child and wait for it; its output is part of a failure's message."""
    script = cwd / "script.py"
    script.write_text(code)
    return run_command([python, str(script)], env, cwd, timeout, check)


def run_command(
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    timeout: float = 120,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command and wait for it; its output is part of a failure's message."""
    with started(command, env, cwd) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"no end after {timeout} s\n{out}\n{err}") from None
    if check and process.returncode:
        raise AssertionError(f"exit code {process.returncode}\n{out}\n{err}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextlib.contextmanager
def started(
    command: Sequence[str], env: Mapping[str, str], cwd: Path
) -> Iterator[subprocess.Popen[str]]:
    """A process in its own group; the whole group is killed at the end."""
    process = subprocess.Popen(
        list(command),
        env=dict(env),
        cwd=cwd,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def end_all_of(folder: Path) -> None:
    """Kill, one by one, what programs left whose files lie in ``folder``: processes in sessions of
    their own are no part of a group. They are known by the HOME that they were started with.

    Raises:
        AssertionError: some are still there after 30 s.
    """

    def kill_those_found() -> bool:
        found = list(_at_home_in(folder))
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    wait_until(kill_those_found, 240, f"the end of all processes of {folder}")


def _at_home_in(folder: Path) -> Iterator[int]:
    """Living processes whose HOME lies in ``folder`` (Linux; elsewhere none are found)."""
    home = f"HOME={folder}{os.sep}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environ = (process / "environ").read_bytes().split(b"\0")
            if any(variable.startswith(home) for variable in environ):
                yield int(process.name)


def wait_until(condition: Callable[[], object], seconds: float = 120, what: str = "") -> None:
    """Poll ``condition`` until it holds.

    Raises:
        AssertionError: it did not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.05)


def end_gently(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """Ask the leader of a process group to end; after half a minute the group is killed."""
    process.send_signal(how)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def end_server(process: subprocess.Popen[bytes]) -> None:
    """Kill a server's process group.

    Under ``make coverage`` the group is interrupted first: a killed process saves no data.
    """
    with contextlib.suppress(ProcessLookupError):
        if "COVERAGE_PROCESS_CONFIG" in os.environ:
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


_PORTS, _FIRST_PORT = 1000, 12_000
"""Ports of each pytest-xdist worker, up to twenty of them: below those that systems give to
clients' connections (Linux from 32,768 on), so that none of these takes one before its server."""
_offsets = itertools.count(os.getpid())


def free_port() -> int:
    """A port on which a server can listen. No other caller gets it soon, nor one of another
    pytest-xdist worker."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 20
    for _ in range(_PORTS):
        port = _FIRST_PORT + worker * _PORTS + next(_offsets) % _PORTS
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"none of the {_PORTS} ports of worker {worker} is free")


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """A port of loopback that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        yield int(listening.getsockname()[1])


@contextlib.contextmanager
def mlflow_server(
    folder: Path,
    port: int | None = None,
    workers: int = 1,
    uri: str = "",
    options: Sequence[str] = (),
    prefix: str = "",
    **variables: str,
) -> Iterator[str]:
    """A real `mlflow server` on loopback; yields its URL. Data stays in ``folder``.

    Args:
        options: more of the command line's.
        prefix: its ``--static-prefix``.
        variables: more of the environment's.
    """
    from tests.support.environment import isolated

    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", str(workers),
        "--backend-store-uri", uri or f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
        *options,
    ]  # fmt: skip
    if prefix:
        command += ["--static-prefix", prefix]
    env = isolated(folder / "env", PYTHONUNBUFFERED="1", **variables)
    log = open(folder / "server.log", "ab")  # noqa: SIM115
    process = subprocess.Popen(
        command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True
    )
    try:
        wait_until(
            lambda: _answers(port, prefix) or process.poll() is not None,
            SERVER_START_S,
            "mlflow server",
        )
        assert process.poll() is None, (folder / "server.log").read_text()[-3000:]
        yield f"http://127.0.0.1:{port}{prefix}"
    finally:
        end_server(process)
        log.close()


def _answers(port: int, prefix: str) -> bool:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", f"{prefix}/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
