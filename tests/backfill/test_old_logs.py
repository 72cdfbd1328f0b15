"""Logs of wandb 0.12 to 0.20, and the same runs on a W&B server, become equal runs in MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.verify import verify
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from mlflow_wandb_plugin.wandb_log.log_writer import LogWriter
from tests.support.mlflow_state import RunState, read_runs
from tests.support.records import exit_record, run_record
from tests.support.stores import copy_store
from tests.support.wandb_source import source_of
from tests.wandb_server import WandbServer

START = 1_700_000_000
METADATA = {
    "os": "Linux-5.4-x86_64", "python": "3.8.10", "heartbeatAt": "2023-11-14T22:13:21",
    "startedAt": "2023-11-14T22:13:20", "docker": None, "cpu_count": 2, "cuda": "11.7",
    "args": ["--lr", "0.1", "--api-key", "open-sesame"], "state": "running",
    "program": "/home/ann/train.py", "codePath": "train.py",
    "git": {"remote": "https://ann:pw@host.invalid/x.git", "commit": "053f1729b2"},
    "email": None, "root": "/home/ann", "host": "box", "username": "ann", "executable": "/bin/py",
    "gpu": "A100", "gpu_count": 1,
}  # fmt: skip
STATS: dict[str, dict[str, Any]] = {
    "0.12": {
        "cpu": 48.0, "memory": 5.65, "network": {"sent": 2e6, "recv": 3e6}, "disk": 32.0,
        "proc.memory.availableMB": 22735.5, "proc.memory.rssMB": 80.7, "proc.memory.percent": 0.3,
        "proc.cpu.threads": 6.0, "gpu.0.gpu": 90.0, "gpu.0.memory": 10.0, "gpu.0.temp": 50.0,
    },
    "0.15": {
        "cpu": 0.5, "cpu.0.cpu_percent": 91.8, "network.sent": 2e6, "network.recv": 3e6,
        "disk.\\.usagePercent": 32.1, "disk.\\.usageGB": 32.5, "disk.in": 0.0, "memory": 6.5,
        "gpu.0.memoryAllocated": 40.0, "gpu.0.powerWatts": 250.0,
    },
    "0.19": {"cpu": 13.5, "memory_percent": 4.9, "disk./.usagePercent": 32.0, "network.sent": 2e6},
}  # fmt: skip
NAMES = {
    "0.12": {
        "system/cpu_utilization_percentage": 48.0, "system/system_memory_usage_percentage": 5.65,
        "system/network_transmit_megabytes": 2.0, "system/network_receive_megabytes": 3.0,
        "system/disk_usage_percentage": 32.0, "system/system_memory_available_megabytes": 22735.5,
        "system/process_memory_usage_megabytes": 80.7,
        "system/process_memory_usage_percentage": 0.3, "system/proc.cpu.threads": 6.0,
        "system/gpu_0_utilization_percentage": 90.0, "system/gpu.0.memory": 10.0,
        "system/gpu_0_temperature_celsius": 50.0,
    },
    "0.15": {
        "system/cpu_utilization_percentage": 0.5, "system/cpu.0.cpu_percent": 91.8,
        "system/network_transmit_megabytes": 2.0, "system/network_receive_megabytes": 3.0,
        "system/disk_usage_percentage": 32.1, "system/disk._.usageGB": 32.5, "system/disk.in": 0.0,
        "system/system_memory_usage_percentage": 6.5,
        "system/gpu_0_memory_usage_percentage": 40.0, "system/gpu_0_power_usage_watts": 250.0,
    },
    "0.19": {
        "system/cpu_utilization_percentage": 13.5, "system/system_memory_usage_percentage": 4.9,
        "system/disk_usage_percentage": 32.0, "system/network_transmit_megabytes": 2.0,
    },
}  # fmt: skip


def old_log(folder: Path, version: str) -> Path:
    """A run folder as these versions write it: keys not nested, no environment record."""
    run = folder / "offline-run-20231114_221320-r1"
    (run / "files").mkdir(parents=True)
    (run / "files" / "wandb-metadata.json").write_text(json.dumps(METADATA))
    (run / "files" / "wandb-summary.json").write_text('{"m": 2}')
    first = run_record("r1", START * 1000, project="old" + version, config={"lr": 0.1}, host="box")
    first.run.git.remote_url = METADATA["git"]["remote"]  # type: ignore[index]
    first.run.git.commit = "053f1729b2"
    records = [Record(), first]
    records[0].header.SetInParent()
    for step in range(3):
        row = Record()
        row.history.step.num = step
        for key, value in {"m": step, "_timestamp": START + step, "_runtime": step}.items():
            row.history.item.add(key=key, value_json=json.dumps(value))
        records.append(row)
    stats = Record()
    stats.stats.timestamp.FromMilliseconds((START + 1) * 1000)
    for key, value in STATS[version].items():
        stats.stats.item.add(key=key, value_json=json.dumps(value))
    records += [stats, exit_record(0, 2)]
    for kind in ("final", "footer"):
        last = Record()
        getattr(last, kind).SetInParent()
        records.append(last)
    with LogWriter(run / "run-r1.wandb") as log:
        for record in records:
            log.append(record.SerializeToString())
    return run


def on_server(wandb: WandbServer, version: str) -> None:
    """The same run, as a server describes it."""
    event = {f"system.{key}": value for key, value in STATS[version].items()}
    wandb.add_run(
        "old" + version, "r1", display_name="", config={"lr": 0.1},
        rows=[{"m": i, "_timestamp": START + i, "_runtime": i, "_step": i} for i in range(3)],
        events=[json.dumps({**event, "_timestamp": START + 1, "_runtime": 1})],
        files={"wandb-metadata.json": json.dumps(METADATA).encode()},
        created_at="2023-11-14T22:13:20Z", heartbeat_at="2023-11-14T22:13:22Z",
    )  # fmt: skip


@pytest.fixture(scope="module")
def wandb(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with WandbServer(tmp_path_factory.mktemp("wandb")) as running:
        yield running


def described(run: RunState) -> dict[str, str]:
    """The tags that describe a run, but for what W&B's server alone knows."""
    known = ("mlflow.wandb.", "wandb.url", "wandb.entity", "wandb.exit_code")
    return {key: value for key, value in run.tags.items() if not key.startswith(known)}


@pytest.mark.parametrize("version", list(STATS))
def test_an_old_log_equals_its_run_on_a_server(
    wandb: WandbServer, version: str, empty_store: Path, tmp_path: Path
) -> None:
    """Origin, points and system metrics are those of the log, whichever way the run came."""
    folder = old_log(tmp_path / "wandb", version)
    on_server(wandb, version)
    runs = []
    for number, source in enumerate((WandbDir(folder), source_of(wandb, "old" + version))):
        target = MlflowTarget(copy_store(empty_store, tmp_path / f"{number}.db"))
        (outcome,) = backfill(source, target, Selection())
        assert outcome.action == "migrated", outcome.reason
        (run,) = read_runs(target.uri).values()
        runs.append(run)
        (verified,) = verify(source, target, Selection())
        assert (verified.result, verified.differences) == ("equal", ())
    local, served = runs
    assert local.points("m") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    system = {name: points[0][0] for name, points in local.metrics.items() if "system/" in name}
    assert system == pytest.approx(NAMES[version])
    assert {
        "mlflow.user": "ann", "mlflow.source.name": "/home/ann/train.py",
        "mlflow.source.git.commit": "053f1729b2",
        "mlflow.source.git.repoURL": "https://host.invalid/x.git", "wandb.host": "box",
        "wandb.os": "Linux-5.4-x86_64", "wandb.python": "3.8.10", "wandb.executable": "/bin/py",
        "wandb.gpu": "A100", "wandb.gpu_count": "1", "wandb.cuda": "11.7",
        "wandb.args": '["--lr", "0.1", "--api-key", "***"]',
    }.items() <= local.tags.items()  # fmt: skip
    assert described(local) == described(served)
    assert (local.metrics, local.params) == (served.metrics, served.params)
    assert (local.name, local.status, local.start) == (served.name, served.status, served.start)


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"git": 3, "args": {"a": 1}, "host": 7, "cpu_count": "x"}']
)
def test_a_metadata_file_of_another_form_costs_itself_alone(
    text: str, fresh_store: str, tmp_path: Path
) -> None:
    """The run is carried with what its records say."""
    folder = old_log(tmp_path / "wandb", "0.12")
    (folder / "files" / "wandb-metadata.json").write_text(text)
    (outcome,) = backfill(WandbDir(folder), MlflowTarget(fresh_store), Selection())
    assert outcome.action == "migrated", outcome.reason
    (run,) = read_runs(fresh_store).values()
    assert run.tags["wandb.host"] == "box"
    assert "wandb.python" not in run.tags
