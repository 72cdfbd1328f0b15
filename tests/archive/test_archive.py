"""``archive:DIR``: W&B → archive → MLflow is W&B → MLflow."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

from mlflow_wandb_plugin import backfill
from mlflow_wandb_plugin.archive.codec import dumps, info_document, info_from, loads
from mlflow_wandb_plugin.archive.run_document import run_folder
from mlflow_wandb_plugin.archive.target import (
    ArchiveTarget,
    open_archive,
)
from mlflow_wandb_plugin.backfill.engines.threads import backfill as carry
from mlflow_wandb_plugin.core.model import (
    RunInfo,
    Selection,
)
from tests.support.archives import (
    MadeSource,
    contents,
    items_of,
)
from tests.support.environment import isolated
from tests.support.mlflow_state import RunState, read_runs
from tests.support.modes import no_umask, open_to_others
from tests.support.processes import run_script
from tests.support.stores import copy_store

SCRIPT = r"""
import math, pathlib, time
import numpy as np
import wandb

config = {"lr": 0.1, "opt": {"name": "adam", "betas": [0.9, 0.99]}, "none": None, "big": 2**70,
          "text": "déjà", "nan": math.nan, "empty": {}, "$float": "nan"}
run = wandb.init(project="Kept", id="Run01", name="a <b>name</b>", notes="notes", group="g",
                 job_type="train", tags=["one", "two"], config=config,
                 settings=wandb.Settings(x_stats_sampling_interval=0.2))
run.define_metric("low", summary="min")
for step in range(40):
    run.log({"loss": 1 / (step + 1), "a": {"b": step}, "a.b": -step, "recall@5": 0.5,
             "odd": math.nan if step % 7 == 0 else math.inf if step % 5 == 0 else step})
run.log({"text": "héllo", "list": [1, "x", 2.5], "deep": {"er": "x"}, "deep.er": "y", "low": 1})
pixels = np.arange(300, dtype="uint8").reshape(10, 10, 3)
run.log({"image": wandb.Image(pixels, caption="c"), "wide": np.arange(1000.0),
         "table": wandb.Table(columns=["x", "y"], data=[[1, "a"], [2, "b"]]), "low": 0})
run.summary["final"] = 0.75
run.config.update({"lr": 0.2}, allow_val_change=True)
pathlib.Path("saved.txt").write_text("saved")
run.save("saved.txt", policy="now")
pathlib.Path("weights.bin").write_bytes(bytes(range(256)) * 10)
artifact = wandb.Artifact("model", "weights", description="d", metadata={"acc": 0.5})
artifact.add_file("weights.bin", name="sub/weights.bin")
artifact.add_reference("store://bucket/elsewhere", name="far", checksum=False)
run.log_artifact(artifact, aliases=["best"])
print("printed by the script")
time.sleep(0.7)  # three samples of the system
run.finish()

run = wandb.init(project="Kept", id="Run01", resume="allow")
for step in range(100, 110):
    run.log({"loss": 1.0, "later": step}, step=step)
run.finish()

with wandb.init(project="Kept", id="run01", name="differs in case only") as run:
    run.log({"loss": 3.0})
"""


class Ways:
    """The runs as MLflow holds them: carried directly, and through an archive."""

    def __init__(self, direct: dict[str, RunState], archived: dict[str, RunState]) -> None:
        self.direct, self.archived = direct, archived


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of W&B's with two offline runs, one of them resumed."""
    folder = tmp_path_factory.mktemp("offline")
    env = isolated(folder)
    run_script(SCRIPT, env, folder / "work")
    return Path(env["WANDB_DIR"]) / "wandb"


@pytest.fixture(scope="module")
def archive(offline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "archive"
    outcomes = backfill(str(offline), f"archive:{folder}")
    assert [(o.action, o.losses) for o in outcomes] == [("migrated", {})] * 2, outcomes
    return folder


@pytest.fixture(scope="module")
def ways(
    offline: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> Ways:
    folder = tmp_path_factory.mktemp("ways")
    states = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, source in (("direct", str(offline)), ("archived", f"archive:{archive}")):
            uri = copy_store(empty_store, folder / f"{name}.db")
            outcomes = backfill(source, uri)
            assert [o.action for o in outcomes] == ["migrated"] * 2, outcomes
            states.append(read_runs(uri, folder / name))
    return Ways(*states)


@pytest.mark.parametrize("run_id", ["Run01", "run01"])
def test_an_archive_between_changes_nothing(ways: Ways, run_id: str) -> None:
    """Params, all tags, every point with time, step and NaN, and artifacts by digest are equal."""
    direct, archived = ways.direct[run_id], ways.archived[run_id]
    for part, value in direct.comparable().items():
        assert archived.comparable()[part] == value, part
    assert direct.tags == archived.tags
    assert archived.tags["mlflow.wandb.state"] == "complete"


def test_the_comparison_compares_something(ways: Ways) -> None:
    """The run holds each kind of thing that an archive carries."""
    run = ways.archived["Run01"]
    assert [step for step, _ in run.points("loss")] == [*range(40), *range(100, 110)]
    assert "nan" in [value for _, value in run.points("odd")]
    assert any(name.startswith("system/") for name in run.metrics)
    wanted = {"wandb/files/saved.txt", "wandb/files/output.log", "wandb/history.jsonl"}
    assert wanted <= set(run.artifacts)
    assert any(path.startswith("wandb/artifacts/weights/") for path in run.artifacts)
    assert len(json.loads(run.tags["mlflow.wandb.rows"])) == 2


def test_pandas_reads_metrics_without_this_package(archive: Path) -> None:
    """One `read_parquet` of a folder has key, path, step, time and value as they were logged."""
    folder = run_folder(archive, RunInfo("Run01", "Kept"))
    frame = pd.read_parquet(folder / "metrics")
    assert list(frame.columns) == ["key", "path", "step", "timestamp_ms", "value"]
    loss = frame[frame.key == "loss"]
    assert loss.step.tolist() == [*range(40), *range(100, 110)]
    assert loss.value.tolist() == [1 / (step + 1) for step in range(40)] + [1.0] * 10
    nested, dotted = (
        frame[frame.path == path].value.tolist() for path in ('["a", "b"]', '["a.b"]')
    )
    assert nested == [-value for value in dotted] == [float(step) for step in range(40)]
    odd = frame[frame.key == "odd"].value
    assert math.isnan(odd.iloc[0])
    assert odd.iloc[5] == math.inf
    assert len(pd.read_parquet(folder / "system_metrics")) > 0
    assert (archive / "README.md").read_text().startswith("# An archive of W&B runs")


def test_a_second_pass_skips_what_is_there(offline: Path, archive: Path, fresh_store: str) -> None:
    """Complete runs are not written again, into an archive or out of it."""
    before = contents(archive)
    again = backfill(str(offline), f"archive:{archive}")
    assert [(o.action, o.verdict) for o in again] == [("skipped", "existing")] * 2
    assert contents(archive) == before
    assert [o.action for o in backfill(f"archive:{archive}", fresh_store)] == ["migrated"] * 2
    twice = backfill(f"archive:{archive}", fresh_store)
    assert [(o.action, o.verdict) for o in twice] == [("skipped", "existing")] * 2
    direct = backfill(str(offline), fresh_store)
    assert [(o.action, o.verdict) for o in direct] == [("skipped", "existing")] * 2


def test_one_run_or_project_of_an_archive_is_a_source(archive: Path) -> None:
    """``archive:DIR/ENTITY/PROJECT[/RUN]`` reads what is below."""
    run = run_folder(archive, RunInfo("run01", "Kept"))
    for folder, wanted in ((run, ["run01"]), (run.parent, ["Run01", "run01"])):
        source = open_archive(f"archive:{folder}")
        assert sorted(info.run_id for info in source.runs(Selection())) == wanted
    sizes = [source.size(info) for info in source.runs(Selection())]
    assert all(size.points > 0 and size.file_bytes > 0 for size in sizes)


def test_an_archive_of_an_archive_is_equal(archive: Path, tmp_path: Path) -> None:
    """Reading returns all that was written."""
    backfill(f"archive:{archive}", f"archive:{tmp_path / 'copy'}")
    assert items_of(open_archive(f"archive:{tmp_path / 'copy'}")) == items_of(
        open_archive(f"archive:{archive}")
    )


def test_json_keeps_what_json_cannot_say() -> None:
    """NaN, infinities, nested keys, and the user's own ``$`` keys are unchanged."""
    info = RunInfo(
        "r", "p", tags=("a",), segments=("s",), config={"x": math.inf, "$float": "nan"},
        first_config={("a", "b"): 1, ("a.b",): 1.0, ("$keyed",): {"$object": {}}},
        summary={"d": {"$float": "nan"}, "big": 2**70, "\ud800": "\ud800"},
        last={("a", "b"): -math.inf}, started_ms=5,
    )  # fmt: skip
    back = info_from(loads(dumps(info_document(info))))
    assert back == info
    assert isinstance(back.first_config["a.b",], float)
    assert math.isnan(loads(dumps({"x": math.nan}))["x"])


def test_removing_the_archive_is_removing_its_folder(archive: Path, tmp_path: Path) -> None:
    """A copy of the folder elsewhere is the same archive."""
    shutil.copytree(archive, tmp_path / "moved")
    moved, kept = (open_archive(f"archive:{path}") for path in (tmp_path / "moved", archive))
    assert items_of(moved) == items_of(kept)


def test_only_the_owner_may_read_an_archive(tmp_path: Path) -> None:
    """It has the configs and files of runs: folders are 0700 and files 0600 with any umask."""
    root = tmp_path / "archive"
    with no_umask():
        (outcome,) = carry(
            MadeSource(tmp_path / "source", blocks=2), ArchiveTarget(root), Selection()
        )
    assert outcome.action == "migrated", outcome.reason
    assert len(list(root.rglob("*"))) > 25
    assert open_to_others(root) == []
