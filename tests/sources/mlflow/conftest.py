"""MLflow stores of each kind, with the same runs in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlflow_wandb_plugin.core.model import (
    ArtifactRef,
    Checkpoint,
    FileRef,
    Item,
    RowObjects,
    RunInfo,
    Selection,
    Series,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.protocols import Source, SourceOptions
from mlflow_wandb_plugin.plugins import open_source
from tests.support.stores import copy_store


class Collected:
    """What a source yields of one run, by kind.

    Attributes:
        rows: number by key, by row.
        times: Unix ms by row.
    """

    def __init__(self, items: Iterator[Item]) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.times: dict[int, int] = {}
        self.objects: list[RowObjects] = []
        self.files: dict[str, bytes] = {}
        self.refused: dict[str, str] = {}
        self.artifacts: list[tuple[ArtifactRef, dict[str, bytes]]] = []
        self.checkpoints: list[int] = []
        self.unreadable: list[UnreadableRange] = []
        self.infos: list[RunInfo] = []
        self.system: list[Series] = []
        self.longest = 0
        for item in items:
            self._add(item)

    def _add(self, item: Item) -> None:
        match item:
            case Series(kind="system"):
                self.system.append(item)
            case Series():
                self.longest = max(self.longest, len(item.values))
                columns = zip(item.steps, item.timestamps_ms, item.values, strict=True)
                for row, at, value in columns:
                    assert item.key[0] not in self.rows.setdefault(row, {})
                    self.rows[row][item.key[0]] = value
                    assert self.times.setdefault(row, at) == at
            case RowObjects():
                self.objects.append(item)
            case FileRef():
                if item.refused:
                    self.refused[item.path] = item.refused
                else:
                    self.files[item.path] = item.local.read_bytes()
            case ArtifactRef():
                local = {e.path: e.local.read_bytes() for e in item.entries if e.local}
                self.artifacts.append((item, local))
            case Checkpoint():
                self.checkpoints.append(item.position)
            case UnreadableRange():
                self.unreadable.append(item)
            case RunInfo():
                self.infos.append(item)

    @property
    def info(self) -> RunInfo:
        return self.infos[-1]


Read = Callable[..., Collected]


@pytest.fixture
def read() -> Read:
    """Read a run by its name."""

    def by_name(source: Source, name: str = "", since: int = 0) -> Collected:
        [run] = [one for one in source.runs(Selection()) if name in ("", one.name)]
        return Collected(source.read(run, {"mlflow": since} if since else {}))

    return by_name


@pytest.fixture
def sqlite(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of an empty SQLite store; MLflow puts artifacts below the test's folder."""
    monkeypatch.chdir(tmp_path)
    return copy_store(empty_store, tmp_path / "mlflow.db")


@pytest.fixture(params=["sqlite", "folder", "server"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """URI of a store of each kind."""
    if request.param == "folder":
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.chdir(tmp_path)
        return str(tmp_path / "mlruns")
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def opened() -> Callable[..., Source]:
    """Open a source as the commands do."""

    def open_uri(uri: str, **options: bool) -> Source:
        return open_source(uri, SourceOptions(**options))

    return open_uri
