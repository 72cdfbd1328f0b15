"""One W&B script, read in MLflow twice: as it was dual-written, and backfilled from its own log.

Both must equal each other and what the script logged; the expectations below are written down
from W&B's documented semantics, not computed by the package.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin import backfill
from tests.support.commands import journals, wandb_folder
from tests.support.environment import isolated
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import run_script
from tests.support.stores import copy_store

NAN, INF = math.nan, math.inf
MLFLOW_INF = 1.7976931348623157e308
"""What MLflow's SQL store keeps for an infinity."""

SCRIPT = r"""
import datetime, json, pathlib, time
import numpy as np
import mlflow_wandb_plugin.wandb as wandb

class Tensor:
    "What wandb takes for a torch scalar, by the name of its type."
    requires_grad, data = False, property(lambda self: self)
    def __init__(self, value): self.value = value
    def size(self): return ()
    def item(self): return self.value
Tensor.__module__ = "torch"

config = {"lr": 0.1, "layers": [1, 2], "opt": {"name": "adam", "betas": [0.9, 0.99]},
          "none": None, "flag": True, "text": "déjà", "empty": {}}
run = wandb.init(project="parity", id="parity01", name="first name", notes="first notes",
                 group="g1", job_type="train", tags=["one", "two"], config=config,
                 settings=wandb.Settings(x_stats_sampling_interval=0.2))
calls = []
def log(data, **how):
    before = time.time()
    wandb.log(data, **how)
    calls.append([before, time.time()])

run.define_metric("epoch")
run.define_metric("val/*", step_metric="epoch", step_sync=True)
run.define_metric("low", summary="min")
run.define_metric("both", summary="max,mean")
run.define_metric("hidden", summary="none")

log({"loss": 2.5})
log({"loss": 2.0, "part": 1}, commit=False)
log({"part": 2, "acc": 0.5})
log({"loss": 1.5}, step=5)
log({"acc": 0.6, "loss": 1.4}, step=5)
log({"lost": 1.0}, step=3)
log({"loss": 1.25}, step=6, commit=True)
log({})
log({"loss": float("nan"), "up": float("inf"), "down": -np.inf})
log({"f32": np.float32(0.1), "i64": np.int64(3), "zero_d": np.array(1.5), "one": np.array([7]),
     "yes": True, "no": np.bool_(False), "tensor": Tensor(0.25), "big": 2**53})
log({"a": {"b": 1, "c": {"d": 2}}, "a.x": 3, "a/b": 4})
log({"past": 1.0, "_timestamp": 1500000000.25})
log({"text": "héllo", "none": None, "list": [1, "x", 2.5],
     "when": datetime.datetime(2020, 1, 2, 3, 4, 5)})
log({"wide": np.arange(1000.0), "hist": wandb.Histogram([1, 2, 2, 3])})
pixels = np.arange(300, dtype="uint8").reshape(10, 10, 3)
table = wandb.Table(columns=["x", "y"], data=[[1, "a"], [2, "b"]])
log({"image": wandb.Image(pixels, caption="c"), "table": table, "html": wandb.Html("<b>hi</b>"),
     "images": [wandb.Image(pixels), wandb.Image(pixels // 2)]})
curve = wandb.Table(columns=["x", "y"], data=[[0, 1], [1, 4]])
log({"curve": wandb.plot.line(curve, "x", "y", title="t")})
log({"epoch": 4})
log({"val/loss": 0.5})
log({"low": 3, "both": 1, "hidden": 1})
log({"low": 1, "both": 3, "hidden": 2})
log({"low": 2, "both": 2, "hidden": 3})

run.config.update({"lr": 0.2, "late": 1}, allow_val_change=True)
run.config.update({"opt": {"name": "sgd", "momentum": 0.9}}, allow_val_change=True)
run.tags = ("one", "three")
run.notes = "second notes"
run.name = "second name"
run.summary["final"] = 0.75
run.summary["acc"] = 0.99
run.summary["nested"] = {"deep": 5}
run.summary["gone"] = 1
del run.summary["gone"]
del run.summary["part"]

pathlib.Path("saved.txt").write_text("saved")
run.save("saved.txt", policy="now")
pathlib.Path("weights.bin").write_bytes(bytes(range(256)) * 10)
artifact = wandb.Artifact("model", "weights", description="d", metadata={"acc": 0.5})
artifact.add_file("weights.bin", name="sub/weights.bin")
with artifact.new_file("note.txt") as file:
    file.write("a note")
artifact.add_reference("store://bucket/elsewhere", name="far", checksum=False)
run.log_artifact(artifact, aliases=["best"])
print("printed by the script")
time.sleep(0.7)  # three samples of the system
log({"pending": 1.0}, step=100)
pathlib.Path("calls.json").write_text(json.dumps(calls))
run.finish()
"""

# step: (the call that gave the row its time, its numbers)
ROWS: dict[int, tuple[int, dict[str, float]]] = {
    0: (0, {"loss": 2.5}),
    1: (2, {"loss": 2.0, "part": 2, "acc": 0.5}),
    5: (4, {"loss": 1.4, "acc": 0.6}),
    6: (6, {"loss": 1.25}),
    7: (7, {}),
    8: (8, {"loss": NAN, "up": MLFLOW_INF, "down": -MLFLOW_INF}),
    9: (
        9,
        {
            "f32": 0.10000000149011612, "i64": 3, "zero_d": 1.5, "one": 7, "yes": 1, "no": 0,
            "tensor": 0.25, "big": 2.0**53,
        },
    ),
    10: (10, {"a.b": 1, "a.c.d": 2, "a.x": 3, "a/b": 4}),
    16: (16, {"epoch": 4}),
    17: (17, {"val/loss": 0.5, "epoch": 4}),
    18: (18, {"low": 3, "both": 1, "hidden": 1}),
    19: (19, {"low": 1, "both": 3, "hidden": 2}),
    20: (20, {"low": 2, "both": 2, "hidden": 3}),
    100: (21, {"pending": 1}),
}  # fmt: skip
AT_EPOCH = {"val/loss": 4}
"""Keys whose step is not that of their row, but the value of their step metric."""
SUMMARY_ONLY = {"final": 0.75, "nested.deep": 5, "low.min": 1, "both.max": 3, "both.mean": 2}


class Replicas:
    """The two MLflow runs, the script's folder and the time of each of its calls, in ms."""

    def __init__(self, dual: RunState, filled: RunState, work: Path) -> None:
        self.dual, self.filled, self.work = dual, filled, work
        calls = json.loads((work / "calls.json").read_text())
        self.calls = [(int(before * 1000), int(after * 1000)) for before, after in calls]


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Replicas:
    folder = tmp_path_factory.mktemp("parity")
    env = isolated(folder, MLFLOW_WANDB_FINISH_TIMEOUT="120", MLFLOW_WANDB_INIT_TIMEOUT="90")
    copy_store(empty_store, folder / "mlflow.db")
    run_script(SCRIPT, env, folder / "work")
    assert not journals(env), "finish() returned with something left to deliver"
    fresh = copy_store(empty_store, folder / "fresh.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        outcomes = backfill(str(wandb_folder(env)), fresh)
        assert [(o.action, o.verdict) for o in outcomes] == [("migrated", "new")], outcomes
        dual = read_runs(env["MLFLOW_TRACKING_URI"], folder / "dual")["parity01"]
        filled = read_runs(fresh, folder / "filled")["parity01"]
    return Replicas(dual, filled, folder / "work")


def test_the_two_replicas_are_equal(replicas: Replicas) -> None:
    """Params, tags but the origin, every point, system metrics, and artifacts by digest."""
    dual, filled = replicas.dual.comparable(), replicas.filled.comparable()
    for part in dual:
        assert dual[part] == filled[part], part
    assert replicas.dual.tags["mlflow.wandb.origin"] == "dual"
    assert replicas.filled.tags["mlflow.wandb.origin"] == "backfill"


def test_every_logged_number_arrives_with_its_step_and_time(replicas: Replicas) -> None:
    """Rows merge, jump, regress and flush as W&B says; the time is that of a row's last call."""
    for step, (call, numbers) in ROWS.items():
        before, after = replicas.calls[call]
        for key, value in numbers.items():
            at = AT_EPOCH.get(key, step)
            found = [p for p in replicas.dual.metrics[key] if p[2] == at]
            wanted: Any = "nan" if math.isnan(value) else float(value)
            assert [p[0] for p in found if p[1] <= after] == [wanted], (step, key, found)
            assert before <= found[0][1] <= after, (step, key)


def test_nothing_but_what_was_logged_becomes_a_metric(replicas: Replicas) -> None:
    """Beside rows and the summary's own numbers there are only system metrics."""
    keys = {key for _, numbers in ROWS.values() for key in numbers} | {"past"}
    found = {key for key in replicas.dual.metrics if not key.startswith("system/")}
    assert found == keys | set(SUMMARY_ONLY)
    logged = sum(len(numbers) for _, numbers in ROWS.values()) + len(["past"])
    # Both logged and set in the summary: W&B shows what was set.
    overwritten = ["acc"]
    points = sum(len(replicas.dual.metrics[key]) for key in found)
    assert points == logged + len(SUMMARY_ONLY) + len(overwritten)


def test_a_time_given_by_the_user_is_honoured(replicas: Replicas) -> None:
    """``_timestamp`` in the data is the row's time."""
    assert replicas.dual.metrics["past"] == [(1.0, 1500000000250, 11)]


def test_summary_numbers_stand_at_the_last_step(replicas: Replicas) -> None:
    """Summary-only numbers and define_metric's statistics are metrics of the last row."""
    dual = replicas.dual
    last_ms = dual.metrics["pending"][0][1]
    for key, value in SUMMARY_ONLY.items():
        assert dual.metrics[key] == [(float(value), last_ms, 100)], key
    assert dual.latest["acc"] == 0.99
    assert dual.points("acc") == [(1, 0.5), (5, 0.6), (100, 0.99)]


def test_summary_document(replicas: Replicas) -> None:
    """``wandb/summary.json`` is what W&B shows: sets, deletions, statistics, media."""
    summary = _document(replicas, "wandb/summary.json")
    numbers = {
        "up": INF, "down": -INF, "f32": 0.10000000149011612, "i64": 3, "zero_d": 1.5, "one": 7,
        "yes": True, "no": False, "tensor": 0.25, "big": 2**53, "a.x": 3, "a/b": 4, "past": 1,
        "epoch": 4, "val/loss": 0.5, "pending": 1, "final": 0.75, "acc": 0.99,
    }  # fmt: skip
    assert {key: summary[key] for key in numbers} == numbers
    assert math.isnan(summary["loss"])
    assert summary["a"] == {"b": 1, "c": {"d": 2}}
    assert summary["nested"] == {"deep": 5}
    assert (summary["low"], summary["both"]) == ({"min": 1}, {"max": 3, "mean": 2})
    assert (summary["text"], summary["list"]) == ("héllo", [1, "x", 2.5])
    assert summary["image"]["_type"] == "image-file"
    assert not {"gone", "part", "hidden", "lost", "none"} & set(summary)


def test_params_hold_the_first_value_and_the_document_the_last(replicas: Replicas) -> None:
    """A param cannot change: the change is counted, the whole config is ``wandb/config.json``."""
    assert replicas.dual.params == {
        "lr": "0.1", "layers": "[1, 2]", "opt.name": "adam", "opt.betas": "[0.9, 0.99]",
        "none": "None", "flag": "True", "text": "déjà", "empty": "{}", "late": "1",
        "opt.momentum": "0.9",
    }  # fmt: skip
    config = _document(replicas, "wandb/config.json")
    twin = config.pop("mlflow_run_id"), config.pop("mlflow_experiment_id")
    assert twin[0] == replicas.dual.run_id
    assert config.pop("mlflow_tracking_uri").startswith("sqlite:///")
    assert config == {
        "lr": 0.2, "layers": [1, 2], "opt": {"name": "sgd", "momentum": 0.9}, "none": None,
        "flag": True, "text": "déjà", "empty": {}, "late": 1,
    }  # fmt: skip
    # lr and opt.name changed, opt.betas went.
    assert replicas.dual.tags["mlflow.wandb.config_changed"] == "3"


def test_the_user_of_an_offline_run(replicas: Replicas) -> None:
    """As MLflow itself has it: the user of the machine, by both ways."""
    for run in (replicas.dual, replicas.filled):
        assert run.tags["mlflow.user"] == getpass.getuser()


def test_name_notes_tags_and_the_rest_of_the_run(replicas: Replicas) -> None:
    """The last name, notes and tags win; a tag that was taken off is gone."""
    dual = replicas.dual
    assert (dual.name, dual.status) == ("second name", "FINISHED")
    wanted = {
        "mlflow.note.content": "second notes", "run_group": "g1",
        "wandb.job_type": "train", "wandb.tags": '["one", "three"]',
        "mlflow.wandb.state": "complete", "mlflow.wandb.losses": "{}",
        "mlflow.wandb.rewrites": "{}",
        "wandb.exit_code": "0", "wandb.state": "finished",
        "mlflow.source.name": str(replicas.work / "script.py"),
    }  # fmt: skip
    assert {key: dual.tags.get(key) for key in wanted} == wanted
    first, last = replicas.calls[0][0], replicas.calls[-1][0]
    assert dual.start < first
    assert dual.end is not None
    assert last <= dual.end < last + 60_000


def test_what_is_no_number_is_in_the_history_document(replicas: Replicas) -> None:
    """``wandb/history.jsonl``: text, lists, histograms and media, each with its step."""
    text = (
        replicas.work.parent / "dual" / replicas.dual.run_id / "wandb/history.jsonl"
    ).read_text()
    rows = {row["_step"]: row for row in map(json.loads, text.splitlines())}
    assert sorted(rows) == [12, 13, 14, 15]
    assert {key: rows[12][key] for key in ("text", "none", "list", "when")} == {
        "text": "héllo", "none": None, "list": [1, "x", 2.5], "when": "2020-01-02T03:04:05",
    }  # fmt: skip
    assert (rows[13]["hist"]["_type"], sum(rows[13]["hist"]["values"])) == ("histogram", 4)
    assert (rows[13]["wide"]["_type"], sum(rows[13]["wide"]["values"])) == ("histogram", 1000)
    types = {key: value["_type"] for key, value in rows[14].items() if isinstance(value, dict)}
    assert types == {
        "image": "image-file", "images": "images/separated", "table": "table-file",
        "html": "html-file",
    }  # fmt: skip
    before, after = replicas.calls[12]
    assert before <= rows[12]["_timestamp_ms"] <= after


def test_files_media_and_artifacts_arrive_byte_by_byte(replicas: Replicas) -> None:
    """Saved files, media and artifacts have the digests of the originals."""
    artifacts = replicas.dual.artifacts
    assert artifacts["wandb/files/saved.txt"] == _sha256(b"saved")
    model = [path for path in artifacts if path.startswith("wandb/artifacts/weights/model/")]
    (described,) = [path for path in model if path.endswith(".json")]
    base = described.removesuffix(".json")
    assert artifacts[f"{base}/sub/weights.bin"] == _sha256(bytes(range(256)) * 10)
    assert artifacts[f"{base}/note.txt"] == _sha256(b"a note")
    document = _document(replicas, described)
    assert (document["description"], document["metadata"]) == ("d", {"acc": 0.5})
    assert "best" in document["aliases"]
    assert {e["path"]: e.get("ref") for e in document["entries"]} == {
        "sub/weights.bin": None, "note.txt": None, "far": "store://bucket/elsewhere",
    }  # fmt: skip
    folder = next(wandb_folder({"WANDB_DIR": str(replicas.work)}).glob("offline-run-*")) / "files"
    ours = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {f"wandb/files/{path}" for path in ours} <= set(artifacts)
    media = [path for path in ours if path.startswith("media/")]
    kinds = {path.split("/")[1] for path in media}
    assert kinds >= {"images", "table", "html"}
    for path in media:
        assert artifacts[f"wandb/files/{path}"] == _sha256((folder / path).read_bytes()), path
    log = (
        replicas.work.parent / "dual" / replicas.dual.run_id / "wandb/files/output.log"
    ).read_text()
    assert "printed by the script" in log


def test_images_and_tables_are_where_mlflow_shows_them(replicas: Replicas) -> None:
    """Step images with their thumbnails, and tables that MLflow can load."""
    artifacts = replicas.dual.artifacts
    images = [path for path in artifacts if path.startswith("images/")]
    assert len([path for path in images if path.endswith("+compressed.webp")]) == 3
    assert len([path for path in images if path.endswith(".png")]) == 3
    assert all("+step+14+timestamp+" in path for path in images)
    assert replicas.dual.tags["mlflow.loggedImages"] == "True"
    listed = {entry["path"] for entry in json.loads(replicas.dual.tags["mlflow.loggedArtifacts"])}
    assert "tables/table/step_14.json" in listed
    assert listed <= set(artifacts)
    assert _document(replicas, "tables/table/step_14.json") == {
        "columns": ["x", "y"], "data": [[1, "a"], [2, "b"]],
    }  # fmt: skip


def test_system_metrics_have_rising_steps_and_true_times(replicas: Replicas) -> None:
    """W&B's samples under MLflow's names, several of them, inside the run's time."""
    dual = replicas.dual
    memory = dual.metrics["system/system_memory_usage_percentage"]
    assert len(memory) >= 3
    assert all(0 < value < 100 for value, _, _ in memory)
    times = [at for _, at, _ in memory]
    steps = [step for _, _, step in memory]
    assert dual.end is not None
    assert dual.start <= min(times)
    assert max(times) <= dual.end
    assert steps == sorted(steps)
    assert [step for _, at, step in memory] == [(at - dual.start) // 1000 for at in times]


def _document(replicas: Replicas, path: str) -> Any:
    return json.loads((replicas.work.parent / "dual" / replicas.dual.run_id / path).read_text())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
