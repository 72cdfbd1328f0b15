"""The server itself: starting and stopping it, filling it, and telling it to misbehave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from .endpoints import Handler
from .faults import Fault, Match, Request
from .schema.context import Context
from .schema.execute import Executor
from .schema.mutation import Mutation
from .schema.query import Query
from .state import Artifact, Project, Run, Store, Sweep, User

_RETRIERS = ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
"""Parts of the client that wait before a second try; it takes whole seconds only."""


class WandbServer:
    """A W&B server on 127.0.0.1 for the length of a `with` block.

    What it stores stays readable afterwards. Leaving the block raises if the server itself
    failed on a request, so that a gap in it is not taken for the client's behaviour.
    """

    def __init__(self, directory: str | Path, user: User | None = None) -> None:
        self.directory = Path(directory)
        self.api_key = "0123456789" * 4
        self.requests: list[Request] = []
        self.errors: list[str] = []
        self._faults: list[Fault] = []
        self._closing = threading.Event()
        blobs = self.directory / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        self.store = Store(blobs, user or User())
        self._http = _HttpServer(
            ("127.0.0.1", 0), type("BoundHandler", (Handler,), {"wandb": self})
        )
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        context = Context(self.store, self.url)
        self.executor = Executor(
            {"query": lambda: Query(context), "mutation": lambda: Mutation(context)}
        )
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))

    def __enter__(self) -> WandbServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        if self.errors and error is None:
            raise AssertionError("the test server failed:\n" + "\n".join(self.errors))

    def env(self, private: str | Path) -> dict[str, str]:
        """Settings for a client process that keeps all it writes inside `private`."""
        home = Path(private)
        names = {"DIR": "dir", "CACHE_DIR": "cache", "DATA_DIR": "data", "CONFIG_DIR": "config"}
        for name in ["home", *names.values()]:
            (home / name).mkdir(parents=True, exist_ok=True)
        return {
            **{f"WANDB_{key}": str(home / name) for key, name in names.items()},
            "HOME": str(home / "home"),
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": self.api_key,
            "WANDB_ENTITY": self.store.user.username,
            "WANDB_ERROR_REPORTING": "false",
            **{f"WANDB_X_{kind}_RETRY_WAIT_MIN_SECONDS": "1" for kind in _RETRIERS},
            "DO_NOT_TRACK": "1",
            "NO_PROXY": "127.0.0.1",
        }

    # What is stored

    @property
    def runs(self) -> list[Run]:
        with self.store.lock:
            return self.store.runs()

    def project(self, name: str, entity: str | None = None) -> Project:
        """The project of that name, made when it is missing."""
        with self.store.lock:
            project = self.store.project(entity, name, create=True)
        assert project is not None
        return project

    def run(self, path: str) -> Run:
        """The run at `[entity/]project/id`."""
        *entity, project, name = path.split("/", 2)
        return self.project(project, *entity).runs[name]

    def artifact(self, path: str) -> Artifact:
        """The artifact version at `project/collection:alias`."""
        project, name = path.split("/")
        collection, _, alias = name.partition(":")
        found = self.project(project).collections[collection].find(alias or "latest")
        assert found is not None
        return found

    def sweep(self, path: str) -> Sweep:
        """The sweep at `project/id`."""
        project, name = path.split("/")
        return self.project(project).sweeps[name]

    # Runs that no client logged

    def add_run(
        self,
        project: str,
        name: str,
        *,
        config: dict[str, Any] | None = None,
        rows: Iterable[dict[str, Any]] = (),
        files: dict[str, bytes] | None = None,
        entity: str | None = None,
        **attributes: Any,
    ) -> Run:
        """Make a run; other attributes of `Run` (state, created_at, user, …) may be given."""
        owner = self.project(project, entity)
        attributes = {"display_name": name, "state": "finished", **attributes}
        attributes.setdefault("user", self.store.user)
        wrapped = {key: {"value": value} for key, value in (config or {}).items()}
        with self.store.lock:
            run = owner.runs[name] = Run(owner, name, config=wrapped, **attributes)
            for path, content in (files or {}).items():
                run.files[path] = self.store.new_blob(content)
        self.grow(run, rows)
        return run

    def add_runs(self, project: str, count: int, prefix: str = "run") -> list[Run]:
        """Many small runs, each a second after the one before."""
        return [
            self.add_run(
                project,
                f"{prefix}-{i:05d}",
                config={"index": i, "even": i % 2 == 0},
                summary={"loss": 1 / (i + 1)},
                created_at=f"2024-01-01T{i // 3600 % 24:02d}:{i // 60 % 60:02d}:{i % 60:02d}Z",
            )
            for i in range(count)
        ]

    def grow(self, run: Run, rows: Iterable[dict[str, Any]]) -> None:
        """Add live rows to a run's history, as its client would by logging on."""
        with self.store.lock:
            before = run.history.line_count
            run.history.append(rows)
            if run.history.line_count > before:
                last = run.history.live[-1].row
                run.summary = {**run.summary, **last}

    def parquet(self, run: Run, rows: int | None = None, files: int = 1) -> None:
        """Export the oldest `rows` live rows of a run (all by default) to parquet files."""
        with self.store.lock:
            self.store.export(run, rows, files)

    def add_long_history(self, run: Run, steps: int, keys: int | list[str] = 5) -> None:
        """Give a run a parquet export of many steps; `key0` at step s is 1 / (s + 1)."""
        names = [f"key{i}" for i in range(keys)] if isinstance(keys, int) else keys
        with self.store.lock:
            self.store.synthesise(run, steps, names)

    # Misbehaviour, and what was asked

    def fail(
        self,
        match: Match,
        *,
        times: int | None = 1,
        skip: int = 0,
        status: int | None = None,
        retry_after: float | None = None,
        drop_after_bytes: int | None = None,
        delay: float = 0.0,
        gate: threading.Event | None = None,
        before: Callable[[], object] | None = None,
        then: Callable[[], object] | None = None,
    ) -> Fault:
        """Treat requests that match badly: `times` of them (all if None), after `skip` good ones.

        `status` refuses without doing anything. The others do what was asked first:
        `drop_after_bytes` cuts the connection after that much of the body (0: no answer at all),
        `delay` waits that many seconds, `gate` waits until the event is set. `before` and `then`
        are called just before and just after the request is carried out.
        """
        fault = Fault(
            match, times, skip, status, retry_after, drop_after_bytes, delay, gate, before, then
        )
        self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Forget every fault."""
        self._faults.clear()

    def asked(self, match: Match, run: str | None = None) -> list[Request]:
        """The recorded requests that match, of one run if it is named."""
        wanted = (request for request in list(self.requests) if request.is_like(match))
        return [request for request in wanted if run is None or request.run == run]

    # For the handler

    def record(self, request: Request) -> None:
        self.requests.append(request)

    def faults_for(self, request: Request) -> list[Fault]:
        with self.store.lock:
            return [fault for fault in self._faults if fault.applies(request)]

    def wait(self, fault: Fault) -> None:
        """Hold a request up, but never past the end of the server."""
        self._closing.wait(fault.delay)
        while fault.gate and not self._closing.is_set() and not fault.gate.wait(0.05):
            pass
        if fault.before:
            fault.before()


class _HttpServer(ThreadingHTTPServer):
    """Joins its threads when closed, after ending the connections they wait on."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        with self._guard:
            connections: Iterator[socket.socket] = iter(list(self._open))
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client closed it first
        super().server_close()
