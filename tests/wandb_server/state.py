"""What the server remembers: plain dataclasses, and the store that holds them all."""

from __future__ import annotations

import base64
import hashlib
import itertools
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .history import Export, History
from .parquet import write_synthetic

Json = dict[str, Any]


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@dataclass
class User:
    username: str = "tester"
    name: str = "Test User"
    email: str = "tester@example.com"


@dataclass(eq=False)
class Blob:
    """Bytes that a client uploads to, and downloads from, an address with a random token."""

    path: Path
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    digest: str = ""
    """Base64 of the MD5, once uploaded."""
    size: int = 0
    updated_at: str = ""

    @property
    def uploaded(self) -> bool:
        return bool(self.digest)

    def fill(self, content: bytes) -> None:
        self.path.write_bytes(content)
        self.measure()

    def measure(self) -> None:
        content = self.path.read_bytes()
        self.size = len(content)
        self.digest = base64.b64encode(hashlib.md5(content).digest()).decode()
        self.updated_at = now()


@dataclass(eq=False, repr=False)
class Project:
    entity: str
    name: str
    number: int
    created_at: str = field(default_factory=now)
    runs: dict[str, Run] = field(default_factory=dict)
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    collections: dict[str, Collection] = field(default_factory=dict)
    reports: list[str] = field(default_factory=list)
    """Titles of reports."""


@dataclass(eq=False, repr=False)
class Run:
    project: Project
    name: str
    """The run's id in an address; the name people see is `display_name`."""
    display_name: str = ""
    state: str = "running"
    config: Json = field(default_factory=dict)
    """As the service keeps it: {key: {"value": …}}."""
    summary: Json = field(default_factory=dict)
    system_metrics: Json = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    description: str | None = None
    group: str | None = None
    job_type: str | None = None
    commit: str | None = None
    host: str | None = None
    program: str | None = None
    sweep_name: str | None = None
    user: User | None = None
    created_at: str = field(default_factory=now)
    heartbeat_at: str = field(default_factory=now)
    exit_code: int | None = None
    preempting: bool = False
    stopped: bool = False
    history: History = field(default_factory=History)
    events: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    files: dict[str, Blob] = field(default_factory=dict)
    marked_uploaded: set[str] = field(default_factory=set)
    used_artifacts: list[Artifact] = field(default_factory=list)
    logged_artifacts: list[Artifact] = field(default_factory=list)
    alerts: list[Json] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Run {self.path} {self.state}>"

    @property
    def path(self) -> str:
        return f"{self.project.entity}/{self.project.name}/{self.name}"

    @property
    def values(self) -> Json:
        """The configuration as the user gave it."""
        return {
            key: item["value"] if isinstance(item, dict) and "value" in item else item
            for key, item in self.config.items()
            if key != "_wandb"
        }


@dataclass(eq=False, repr=False)
class Artifact:
    collection: Collection
    number: int
    digest: str
    state: str = "PENDING"
    version: int | None = None
    description: str | None = None
    metadata: str | None = None
    tags: list[str] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    client_id: str | None = None
    history_step: int | None = None
    created_by: Run | None = None
    used_by: list[Run] = field(default_factory=list)
    manifest: Blob | None = None
    files: dict[str, Blob] = field(default_factory=dict)
    """By manifest digest."""
    ttl_seconds: int = -1
    created_at: str = field(default_factory=now)
    updated_at: str | None = None

    def __repr__(self) -> str:
        return f"<Artifact {self.collection.name}:v{self.version} {self.state}>"


@dataclass(eq=False, repr=False)
class Collection:
    """A sequence of artifact versions, or a portfolio that links to versions of sequences."""

    project: Project
    name: str
    type: str
    portfolio: bool = False
    description: str | None = None
    versions: list[Artifact] = field(default_factory=list)
    aliases: dict[str, Artifact] = field(default_factory=dict)
    created_at: str = field(default_factory=now)

    def find(self, alias: str) -> Artifact | None:
        if alias in self.aliases:
            return self.aliases[alias]
        named = {f"v{index}": version for index, version in enumerate(self.versions)}
        return named.get(alias)


@dataclass(eq=False, repr=False)
class Agent:
    sweep: Sweep
    number: int
    host: str
    created_at: str = field(default_factory=now)
    heartbeat_at: str = field(default_factory=now)
    given: list[str] = field(default_factory=list)
    """Names of the runs it was told to start."""


@dataclass(eq=False, repr=False)
class Sweep:
    project: Project
    name: str
    config: str
    """YAML, as the client sent it."""
    state: str = "PENDING"
    display_name: str | None = None
    description: str | None = None
    user: User | None = None
    agents: list[Agent] = field(default_factory=list)
    pending: Iterator[Json] | None = None
    """The parameter sets that no agent has been given yet."""
    created_at: str = field(default_factory=now)
    updated_at: str | None = None

    @property
    def runs(self) -> list[Run]:
        return [run for run in self.project.runs.values() if run.sweep_name == self.name]


class Store:
    """All projects and uploaded bytes; hold `lock` while reading or changing them."""

    def __init__(self, directory: Path, user: User) -> None:
        self.directory = directory
        self.user = user
        self.lock = threading.RLock()
        self.projects: dict[tuple[str, str], Project] = {}
        self.blobs: dict[str, Blob] = {}
        self.artifacts: dict[int, Artifact] = {}
        self.agents: dict[int, Agent] = {}
        self.deleted_runs: list[Run] = []
        self._numbers = itertools.count(1)

    def number(self) -> int:
        return next(self._numbers)

    def project(self, entity: str | None, name: str | None, create: bool = False) -> Project | None:
        key = (entity or self.user.username, name or "uncategorized")
        if create and key not in self.projects:
            self.projects[key] = Project(*key, number=self.number())
        return self.projects.get(key)

    def runs(self) -> list[Run]:
        return [run for project in self.projects.values() for run in project.runs.values()]

    def stored(self, project: Project, digest: str) -> Blob | None:
        """Content that arrived with some artifact of the project."""
        for artifact in self.artifacts.values():
            blob = artifact.files.get(digest)
            if artifact.collection.project is project and blob and blob.digest == digest:
                return blob
        return None

    def new_blob(self, content: bytes | None = None) -> Blob:
        """A place for an upload, under a name of the server's own choosing."""
        blob = Blob(self.directory / uuid.uuid4().hex)
        self.blobs[blob.token] = blob
        if content is not None:
            blob.fill(content)
        return blob

    def adopt(self, path: Path) -> None:
        """Serve a file that was written straight into the directory."""
        blob = Blob(path, token=path.name)
        blob.measure()
        self.blobs[blob.token] = blob

    def export(self, run: Run, rows: int | None, files: int) -> None:
        """Turn the oldest live rows of a run into parquet exports."""
        before = len(run.history.exports)
        run.history.export(self._new_path, rows, files)
        for export in run.history.exports[before:]:
            self.adopt(export.path)

    def synthesise(self, run: Run, steps: int, keys: list[str]) -> None:
        """Give a run a long history that exists as a parquet export only."""
        if run.history.live:
            raise ValueError("exports come before live rows: export those first")
        path = self._new_path()
        first = run.history.last_step + 1
        write_synthetic(path, first, steps, keys)
        self.adopt(path)
        names = ["_step", "_timestamp", "_runtime", *keys]
        types = {key: Counter({"number": steps}) for key in names}
        run.history.exports.append(Export(path, steps, first + steps - 1, types))

    def _new_path(self) -> Path:
        return self.directory / f"{uuid.uuid4().hex}.parquet"
