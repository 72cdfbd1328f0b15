"""An archive says what it was narrowed to, and closes what earlier versions left open."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlflow_wandb_plugin import backfill
from mlflow_wandb_plugin.archive.target import create_archive
from tests.backfill.test_decisions import local_run
from tests.support.mlflow_state import read_runs
from tests.support.modes import no_umask
from tests.targets.mlflow.writing import document


def archived(root: Path) -> tuple[dict[str, list[float]], list[dict[str, Any]]]:
    """Values by key in the parts of the only run, and its rows."""
    [folder] = root.glob("*/*/r1")
    parts = sorted((folder / "metrics").glob("part-*.parquet"))
    points: dict[str, list[float]] = {}
    for frame in map(pd.read_parquet, parts):
        for key, value in zip(frame["key"], frame["value"], strict=True):
            points.setdefault(key, []).append(value)
    return points, [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("narrow", [{"include_metrics": ("^text$",)}, {"artifacts": False}])
def test_a_narrowed_archive_is_complete_for_its_selection_alone(
    tmp_path: Path, narrow: dict[str, Any]
) -> None:
    """The same selection skips the run, another one continues it, a wider one completes it without
    doubling anything, and then every backfill skips it."""
    local_run(tmp_path / "wandb", text="words")
    uri = f"archive:{tmp_path / 'kept'}"

    def again(**options: Any) -> tuple[str, str]:
        (outcome,) = backfill(str(tmp_path / "wandb"), uri, **options)
        return outcome.action, outcome.verdict

    assert again(**narrow) == ("migrated", "new")
    assert again(**narrow) == ("skipped", "existing")
    assert again(exclude_metrics=("^loss$",)) == ("repaired", "partial")
    assert again() == ("repaired", "partial")
    points, rows = archived(tmp_path / "kept")
    assert points == {"loss": [0.0, 1.5, 3.0, 4.5, 6.0, 7.5]}
    assert [(row["step"], row["values"]["text"]) for row in rows] == [
        (step, "words") for step in range(6)
    ]
    assert again() == again(**narrow) == ("skipped", "existing")


def test_what_a_narrowed_archive_is_loaded_into_is_narrowed(
    tmp_path: Path, fresh_store: str
) -> None:
    """MLflow's run has the archive's selection; loading it again skips it, and a backfill from
    W&B's own folder completes it."""
    local_run(tmp_path / "wandb", text="words")
    uri = f"archive:{tmp_path / 'kept'}"
    list(backfill(str(tmp_path / "wandb"), uri, include_metrics=("^text$",)))

    def load(source: Any, **options: Any) -> tuple[str, str]:
        (outcome,) = backfill(source, fresh_store, **options)
        return outcome.action, outcome.verdict

    assert load(uri) == ("migrated", "new")
    (run,) = read_runs(fresh_store).values()
    told = json.loads(run.tags["mlflow.wandb.selection"])
    assert told == {"include": ["^text$"], "exclude": [], "artifacts": True}
    assert "loss" not in run.metrics
    assert load(uri) == ("skipped", "existing")
    assert load(str(tmp_path / "wandb")) == ("repaired", "partial")
    (run,) = read_runs(fresh_store).values()
    assert run.points("loss") == [(step, step * 1.5) for step in range(6)]
    lines = document(fresh_store, run, "wandb/history.jsonl", tmp_path)
    assert [(line["_step"], line["text"]) for line in lines] == [(n, "words") for n in range(6)]
    assert load(str(tmp_path / "wandb")) == load(uri) == ("skipped", "existing")


def test_an_archive_of_an_earlier_version_is_closed_to_others(tmp_path: Path) -> None:
    """Such a version left the modes to the umask. Its selection is unknown: all was taken."""
    local_run(tmp_path / "wandb", text="words")
    root = tmp_path / "kept"
    list(backfill(str(tmp_path / "wandb"), f"archive:{root}"))
    [document_file] = root.glob("*/*/r1/run.json")
    told = json.loads(document_file.read_text())
    del told["info"]["selection"]
    document_file.write_text(json.dumps(told))
    everything = [root, *root.rglob("*")]
    with no_umask():
        for path in everything:
            path.chmod(0o755 if path.is_dir() else 0o644)
    (tmp_path / "outside").write_text("not the archive's")
    (tmp_path / "outside").chmod(0o644)
    (root / "link").symlink_to(tmp_path / "outside")
    create_archive(f"archive:{root}")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in everything}
    assert modes == {path: 0o700 if path.is_dir() else 0o600 for path in everything}
    assert stat.S_IMODE((tmp_path / "outside").stat().st_mode) == 0o644
    (outcome,) = backfill(str(tmp_path / "wandb"), f"archive:{root}")
    assert (outcome.action, outcome.verdict) == ("skipped", "existing")


def test_a_folder_that_becomes_an_archive_keeps_what_was_in_it(tmp_path: Path) -> None:
    """Only an archive's own files are closed to others."""
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "mine.txt").chmod(0o644)
    tmp_path.chmod(0o755)
    for _ in range(2):
        create_archive(f"archive:{tmp_path}")
        assert stat.S_IMODE((tmp_path / "mine.txt").stat().st_mode) == 0o644
