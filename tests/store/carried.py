"""The program's journals, delivered to a W&B server."""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from tests.store.played import Played, runs_of
from tests.support.mirrored import forward
from tests.support.outboxes import JournalContent, read_outbox
from tests.support.processes import run_command
from tests.wandb_server import Run, WandbServer
from tests.wandb_server.clients import environment


@dataclass
class RemoteOutcome:
    """The program's runs in MLflow, in the journals, and in W&B.

    Attributes:
        runs: MLflow's.
        digests: SHA-256 of each run's files, by path, as they were in the journals' folder.
        models: SHA-256 of each logged model's files.
        left: names of what the journals left behind.
    """

    client: MlflowClient
    runs: list[Any]
    sent: dict[str, JournalContent]
    digests: dict[str, dict[str, str]]
    models: dict[str, set[str]]
    wandb: WandbServer
    left: list[str]

    def run(self, run_id: str) -> Run:
        return self.wandb.run(f"{self.sent[run_id].header['project']}/{run_id}")

    def named(self, name: str) -> Run:
        [run] = [run for run in self.wandb.runs if run.display_name == name]
        return run


@contextlib.contextmanager
def carry(played: Played) -> Iterator[RemoteOutcome]:
    """Carry a copy of the journals that the program left to a W&B server on loopback."""
    outbox = played.folder / "carried" / "mirror"
    shutil.copytree(played.outbox, outbox)
    (outbox / "delivery.lock").unlink()
    client = MlflowClient(played.uri)
    sent = read_outbox(outbox)
    digests = {
        run_id: {path: content_digest(file) for path, file in run.files.items()}
        for run_id, run in sent.items()
    }
    models = {
        model_id: {content_digest(file) for file in files.values()}
        for run in sent.values()
        for model_id, files in run.model_files.items()
    }
    runs = runs_of(client)
    with WandbServer(played.folder / "wandb-server") as wandb:
        env = environment(wandb, played.folder / "private", {"WANDB_MODE": "online"})
        if {run.header["role"] for run in sent.values()} == {"server"}:
            # A replicator would stay with runs that are open: a server may go on with them.
            command = [sys.executable, "-m", "mlflow_wandb_plugin.cli", "sync", str(outbox)]
            run_command(command, env, played.folder / "work", timeout=240)
        else:
            forward(outbox, env, played.folder / "work")
        left = [path.name for path in outbox.iterdir() if path.stem in sent]
        yield RemoteOutcome(client, runs, sent, digests, models, wandb, left)
        assert not wandb.executor.unknown


def content_digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def as_number(text: str) -> object:
    """A param as it compares: wandb-core writes 1.0 as 1."""
    with contextlib.suppress(ValueError):
        return float(text)
    return text


Point = tuple[str, str, int, int]


def points_in_wandb(run: Run) -> Counter[Point]:
    """Key, value, time in ms and step of every number in the history."""
    found: Counter[Point] = Counter()
    for line in run.history.live:
        row = dict(line.row)
        at, step = round(row["_timestamp"] * 1000), row.get("mlflow_step", 0)
        for key in row.keys() - {"_timestamp", "_runtime", "_step", "mlflow_step"}:
            if isinstance(row[key], (int, float)):
                found[key, _stored(row[key]), at, step] += 1
    return found


def points_in_mlflow(client: MlflowClient, run: Any) -> Counter[Point]:
    return Counter(
        (key, _stored(metric.value), metric.timestamp, metric.step)
        for key in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, key)
    )


def _stored(value: float) -> str:
    # MLflow's database stores no infinity: its largest number stands for it.
    largest = sys.float_info.max
    return "nan" if math.isnan(value) else repr(float(max(-largest, min(largest, value))))
