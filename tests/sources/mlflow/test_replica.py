"""Runs that came from W&B into MLflow, read as W&B had them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.core.model import (
    ArtifactEntry,
    ArtifactRef,
    FileRef,
    Item,
    RowObjects,
    RunInfo,
    Selection,
    Series,
    Size,
)
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.mapping.system_metrics import system_metric, wandb_metric
from mlflow_wandb_plugin.sources.mlflow.replica import (
    is_parent_of_replicas,
    is_replica,
    replica_info,
)
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.sources.mlflow.conftest import Read

T = 1_700_000_000_000
INFO = RunInfo(
    "w1",
    "vision",
    "team",
    name="brave-sun-1",
    notes="a note",
    tags=("good", "two words"),
    group="g",
    job_type="train",
    sweep_id="s1",
    segments=("log",),
    state="crashed",
    exit_code=3,
    started_ms=T,
    ended_ms=T + 9_000,
    config={"lr": 0.1, "layers": [1, 2], "opt": {"name": "adam"}},
    first_config={("lr",): 0.1, ("layers",): [1, 2], ("opt", "name"): "adam"},
    summary={"loss": 0.1, "acc": {"val": 0.75}, "best": 0.9, "odd?": 2.0},
    last={("loss",): 0.5, ("acc", "val"): 0.75, ("odd?",): 2.0},
    last_step=20,
    last_ms=T + 2_000,
    rows={"log": 3},
    facts={"program": "train.py", "user": "ada", "host": "box", "args": ["--x", "1"]},
)


class OneRun(Source):
    """A W&B run with one of each kind of item."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "f.txt"
        self.file.write_text("content")

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        yield INFO

    def size(self, run: RunInfo) -> Size:
        return Size()

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        times = [T, T + 1_000, T + 2_000]
        yield Series(("loss",), [0, 10, 20], times, [2.0, math.nan, 0.5])
        yield Series(("acc", "val"), [10], [T + 1_000], [0.75])
        yield Series(("odd?",), [0], [T], [2.0])
        yield Series(("gpu.0.temp",), [0], [T + 500], [60.0], "system")
        yield Series(("network.sent",), [0], [T + 500], [3e6], "system")
        yield RowObjects(10, T + 1_000, {
            ("text",): "a\u2028b\nc",
            ("h", "x"): {"_type": "histogram", "values": [1], "bins": [0, 1]},
        })  # fmt: skip
        yield FileRef("media/f.txt", self.file)
        entry = ArtifactEntry("deep/w.bin", "ZGln", 7, self.file)
        yield ArtifactRef(
            "model", "net", "v3", "abcdef0123456789", "text", ("best",), {"m": 1}, (entry,)
        )
        yield ArtifactRef("dataset", "train", "v1", used=True)
        yield INFO


@pytest.fixture
def replicated(sqlite: str, tmp_path: Path) -> str:
    """URI of a store with the run's replica."""
    [outcome] = backfill(OneRun(tmp_path), MlflowTarget(sqlite), Selection())
    assert outcome.action == "migrated", outcome.reason
    return sqlite


@pytest.fixture
def source(replicated: str, opened: Callable[..., Source]) -> Source:
    return opened(replicated)


def test_description(source: Source, read: Read) -> None:
    """All that W&B's run had: id, names, state, config and summary in their own types."""
    [listed] = source.runs(Selection())
    assert (listed.run_id, listed.project, listed.entity) == ("w1", "vision", "team")
    info = read(source).info
    same = (
        "run_id", "project", "entity", "name", "notes", "tags", "group", "job_type", "sweep_id",
        "state", "exit_code", "started_ms", "ended_ms", "config", "summary", "last_step", "last_ms",
    )  # fmt: skip
    assert {name: getattr(info, name) for name in same} == {
        name: getattr(INFO, name) for name in same
    }
    assert info.rows == {"mlflow": 3}
    expected = dict(INFO.facts)
    assert {name: info.facts[name] for name in expected} == expected
    assert source.describe(listed).config == INFO.config


def test_rows_have_their_own_numbers(source: Source, read: Read) -> None:
    """Rows are W&B's steps; the value that the summary alone has is no row's."""
    items = list(source.history(next(source.runs(Selection()))))
    points = {
        (series.key, step, at): value
        for series in items
        if isinstance(series, Series) and series.kind == "history"
        for step, at, value in zip(series.steps, series.timestamps_ms, series.values, strict=True)
    }
    assert repr(points.pop((("loss",), 10, T + 1_000))) == "nan"
    assert points == {
        (("loss",), 0, T): 2.0,
        (("loss",), 20, T + 2_000): 0.5,
        (("acc", "val"), 10, T + 1_000): 0.75,
        (("odd?",), 0, T): 2.0,
    }


def test_system_metrics_have_their_names_and_units(source: Source) -> None:
    """MLflow's names and megabytes become W&B's again."""
    [run] = source.runs(Selection())
    system = {
        item.key: (list(item.timestamps_ms), list(item.values))
        for item in source.read(run, {})
        if isinstance(item, Series) and item.kind == "system"
    }
    assert system == {
        ("gpu.0.temp",): ([T + 500], [60.0]),
        ("network.sent",): ([T + 500], [3e6]),
    }


def test_values_files_and_artifacts(source: Source, read: Read) -> None:
    """Values that are no numbers, W&B's files, the artifact and the one that was used."""
    got = read(source)
    assert got.objects == [
        RowObjects(10, T + 1_000, {
            ("text",): "a\u2028b\nc",
            ("h", "x"): {"_type": "histogram", "values": [1], "bins": [0, 1]},
        })
    ]  # fmt: skip
    assert got.files == {"media/f.txt": b"content"}
    (model, files), (used, _) = got.artifacts
    assert files == {"deep/w.bin": b"content"}
    assert (model.type, model.name, model.version) == ("model", "net", "v3")
    assert (model.digest, model.description) == ("abcdef0123456789", "text")
    assert (model.aliases, model.metadata) == (("best",), {"m": 1})
    assert used == ArtifactRef("dataset", "train", "v1", used=True)
    assert not got.unreadable


def test_a_file_that_mlflow_has_not_written_to_its_end_is_none(
    source: Source, read: Read, replicated: str
) -> None:
    """A process that was killed leaves it."""
    from mlflow import MlflowClient

    client = MlflowClient(replicated)
    experiments = [one.experiment_id for one in client.search_experiments()]
    [run] = client.search_runs(experiments, "tags.`wandb.run_id` = 'w1'")
    folder = Path(str(run.info.artifact_uri).removeprefix("file://"), "wandb", "files", "media")
    (folder / ".artifact.uploading.x1").write_text("con")
    assert read(source).files == {"media/f.txt": b"content"}


def test_rows_before_a_position_are_left_out(source: Source, read: Read) -> None:
    """A position is the number of the next row."""
    assert set(read(source, since=11).rows) == {20}


@pytest.mark.parametrize(
    "key",
    ["cpu", "memory_percent", "proc.memory.rssMB", "network.recv", "disk./.usagePercent",
     "gpu.1.memoryAllocatedBytes", "gpu.0.powerWatts", "gpu.0.smClock", "tpu.0.x"],
)  # fmt: skip
def test_names_of_system_metrics_are_inverted(key: str) -> None:
    """Each name and value that present versions of wandb record comes back."""
    name, value = wandb_metric(*system_metric(key, 5e6))
    assert (name, value) == (key, 5e6)


def test_a_replica_of_an_earlier_version_is_described(fresh_store: str) -> None:
    """By the names that its tags have."""
    client = MlflowClient(fresh_store)
    tags = {
        "wandb.run_id": "w1", "wandb.run_path": "team/vision/w1", "wandb.project": "vision",
        "wandb.sync.origin": "dual", "wandb.sync.state": "complete", "wandb.name": "brave-sun-1",
        "wandb.group": "g", "run_group": "g", "wandb.tags": '["good"]', "wandb.tag.good": "true",
    }  # fmt: skip
    run = client.create_run("0", T, tags)
    assert is_replica(run)
    info = replica_info(run, {"wandb.name": "brave-sun-1 and more"})
    assert (info.run_id, info.name, info.group) == ("w1", "brave-sun-1 and more", "g")
    assert info.tags == ("good",)
    mirrored = client.create_run("0", T, {**tags, "wandb.sync.origin": "mirror"})
    assert not is_replica(mirrored)
    parent = client.create_run("0", T, {"wandb.parent_of_group": "g"})
    assert is_parent_of_replicas(parent)
