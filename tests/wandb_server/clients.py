"""Client processes for tests: each in a process group of its own, ended by its id."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .server import WandbServer

_LOOP = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    scope = {}
    try:
        exec(json.loads(line), scope)
        answer = {"result": scope.get("result")}
        text = json.dumps(answer)
    except BaseException as error:
        text = json.dumps({"error": f"{type(error).__name__}: {error}"})
    print(text, file=answers, flush=True)
"""


class ClientError(AssertionError):
    """The code a client was given failed, or the client did not finish in time."""


def environment(
    server: WandbServer, private: str | Path, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The whole environment of a client: nothing of wandb's is inherited."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return {**kept, **server.env(private), **(extra or {})}


class Client:
    """A Python process with the server's settings, working in its private directory."""

    def __init__(
        self,
        server: WandbServer,
        private: str | Path,
        arguments: list[str],
        extra: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.private = Path(private)
        self.private.mkdir(parents=True, exist_ok=True)
        self._log = (self.private / "output.txt").open("ab+")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *arguments],
            cwd=self.private,
            env=environment(server, private, extra),
            stdin=stdin,
            stdout=subprocess.PIPE if stdin == subprocess.PIPE else self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    @property
    def output(self) -> str:
        """What it has written so far."""
        return (self.private / "output.txt").read_text(errors="replace")

    def wait(self, timeout: float = 60.0) -> str:
        """Wait for success, and give back what the process wrote."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ClientError(f"still running after {timeout} s:\n{self.output}") from None
        if code:
            raise ClientError(f"exit code {code}:\n{self.output}")
        return self.output

    def end(self) -> None:
        """Kill the process and all it started; nothing happens if they are gone."""
        self._kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._log):
            if stream:
                stream.close()

    def _kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def run_python(
    server: WandbServer, private: str | Path, code: str, timeout: float = 60.0, **extra: str
) -> str:
    """Run code in a fresh client and wait for it; `extra` goes into its environment."""
    with Client(server, private, ["-c", textwrap.dedent(code)], extra) as client:
        return client.wait(timeout)


class Worker(Client):
    """A client that stays: importing wandb is paid for once."""

    def __init__(self, server: WandbServer, private: str | Path, **extra: str) -> None:
        super().__init__(server, private, ["-c", _LOOP], extra, stdin=subprocess.PIPE)

    def __enter__(self) -> Worker:
        return self

    def call(self, code: str, timeout: float = 60.0) -> Any:
        """Run code, and give back what it left in `result` (through JSON).

        A worker that takes too long is killed, and can not be called again.
        """
        requests: IO[bytes] | None = self.process.stdin
        answers: IO[bytes] | None = self.process.stdout
        assert requests is not None
        assert answers is not None
        requests.write(json.dumps(textwrap.dedent(code)).encode() + b"\n")
        requests.flush()
        limit = threading.Timer(timeout, self._kill)
        limit.start()
        line = answers.readline()
        limit.cancel()
        limit.join()
        if not line:
            raise ClientError(f"the worker is gone:\n{self.output}")
        answer = json.loads(line)
        if "error" in answer:
            raise ClientError(answer["error"])
        return answer["result"]
