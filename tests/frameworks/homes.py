"""Unmodified programs under ``mlflow-wandb run``, and whether both homes then have the same."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from pprint import pformat
from subprocess import CompletedProcess
from typing import Any

from tests.frameworks.wandb_says import (
    INTERNAL,
    MLFLOW_CALLS,
    Leaf,
    WandbRun,
    leaves,
    stored,
    wandb_runs,
)
from tests.support.commands import COMMAND, journals, wandb_folder
from tests.support.environment import isolated
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import run_command, wait_until
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer
from tests.wandb_server.state import Artifact, Run

PROGRAMS = Path(__file__).parent / "programs"
NAMES_OF_THE_REPLICA = ("mlflow_run_id", "mlflow_experiment_id", "mlflow_tracking_uri")
PARAM_LENGTH = 6000
WRITTEN_AT_THE_END = ("config.yaml", "wandb-summary.json", "output.log")
"""wandb-core writes them to W&B's server in a form of their own."""


class Homes:
    """One W&B server and one MLflow database for one program.

    Attributes:
        env: the program's environment.
        server: W&B.
    """

    def __init__(self, folder: Path, server: WandbServer, empty_store: Path) -> None:
        self.server = server
        self.env = {
            **isolated(folder),
            **server.env(folder / "client"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "WANDB_DIR": str(folder / "program"),
            "WANDB_MODE": "online",
            "MLFLOW_TRACKING_URI": copy_store(empty_store, folder / "mlflow.db"),
            "MLFLOW_WANDB_INIT_TIMEOUT": "120",
            "MLFLOW_WANDB_FINISH_TIMEOUT": "120",
            "PYTHONWARNINGS": "ignore",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "KERAS_BACKEND": "torch",
            "CUDA_VISIBLE_DEVICES": "",
            # The address of a socket has 107 bytes at most.
            "TMPDIR": tempfile.mkdtemp(prefix="frameworks-"),
        }
        self.work = folder / "program"
        self.work.mkdir()
        self._folder = folder

    def run(self, program: str, *arguments: str, **more: str) -> CompletedProcess[str]:
        """Run one of `PROGRAMS`; ``more`` are environment variables."""
        return self.command(sys.executable, str(PROGRAMS / program), *arguments, **more)

    def torchrun(self, program: str, *arguments: str) -> CompletedProcess[str]:
        """Run one of `PROGRAMS` in two processes of torch's launcher."""
        return self.command(
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
            "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1",
            str(PROGRAMS / program), *arguments,
        )  # fmt: skip

    def command(self, *command: str, **more: str) -> CompletedProcess[str]:
        """Run a command, and wait until all that it logged is delivered."""
        done = run_command(
            [COMMAND, "run", "--", *command], {**self.env, **more}, self.work, timeout=400
        )
        wait_until(lambda: not journals(self.env), 240, "all delivered")
        return done

    def compare(self, project: str) -> dict[str, WandbRun]:
        """The runs of a W&B project, after it was seen that both homes have the same.

        Raises:
            AssertionError: they differ.
        """
        logged = wandb_runs(wandb_folder(self.env))
        in_wandb = self.server.project(project).runs
        in_mlflow = read_runs(self.env["MLFLOW_TRACKING_URI"], self._folder / "artifacts")
        replicas = {key: run for key, run in in_mlflow.items() if "wandb.run_id" in run.tags}
        assert logged.keys() == in_wandb.keys(), "W&B's logs, and W&B"
        assert logged.keys() == replicas.keys(), "W&B's logs, and MLflow"
        found = {
            run_id: [
                *_server_differences(run, in_wandb[run_id]),
                *_differences(run, in_wandb[run_id], replicas[run_id], self._document),
                *_file_differences(in_wandb[run_id], replicas[run_id]),
            ]
            for run_id, run in logged.items()
        }
        assert not any(found.values()), pformat(_short(found), width=150)
        return logged

    def mlflow_runs(self) -> dict[str, RunState]:
        return read_runs(self.env["MLFLOW_TRACKING_URI"])

    def _document(self, run: RunState, path: str) -> str:
        if path not in run.artifacts:
            return ""
        return (self._folder / "artifacts" / run.run_id / path).read_text()


def _short(found: Any) -> Any:
    """``found`` with at most five entries of each list."""
    if isinstance(found, dict):
        return {key: _short(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        more = [f"… {len(found) - 5} more"] if len(found) > 5 else []
        return [*map(_short, found[:5]), *more]
    return found


def _server_differences(logged: WandbRun, run: Run) -> Iterator[Any]:
    """What W&B's server has otherwise than the logs: a check of the reader of logs."""
    rows = [line.row for line in run.history.live]
    received = Counter(_row(_flat(row)) for row in rows)
    sent = Counter(_row({".".join(path): value for path, value in row.items()})
                   for row in logged.rows)  # fmt: skip
    if received != sent:
        yield (
            "W&B's rows",
            sorted((received - sent).elements()),
            sorted((sent - received).elements()),
        )


def _row(row: Mapping[str, Any]) -> str:
    """A row without its step, which W&B's server sets anew in shared mode."""
    kept = {key: value for key, value in row.items() if key not in ("_step", "_runtime")}
    return json.dumps(kept, sort_keys=True)


def _flat(row: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat.update(
            _flat(value, f"{above}{key}.")
            if isinstance(value, dict) and value
            else {f"{above}{key}": value}
        )
    return flat


def _differences(logged: WandbRun, run: Run, replica: RunState, document: Any) -> Iterator[Any]:
    """What MLflow has otherwise than the logs, or the server, of a run."""
    yield from _point_differences(logged, replica)
    for what, found, wanted in (
        ("params", replica.params, _params(logged)),
        ("status", replica.status, "FAILED" if run.state == "failed" else run.state.upper()),
        ("name", replica.name, run.display_name or run.name),
        ("start", replica.start, logged.start_ms),
        ("config", _config(document(replica, "wandb/config.json")), _without_own(logged.config)),
        ("objects", _objects(document(replica, "wandb/history.jsonl")), dict(logged.objects)),
        ("tags", _tags(replica), _wanted_tags(logged, run)),
        ("samples", len(replica.metrics.get("system/cpu_utilization_percentage", ())),
         logged.samples),
    ):  # fmt: skip
        if found != wanted:
            yield what, *_unequal(found, wanted)


def _unequal(found: Any, wanted: Any) -> tuple[Any, Any]:
    """Of two dictionaries, the entries that differ."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return found, wanted
    left = {key: value for key, value in found.items() if wanted.get(key, ...) != value}
    return left, {key: value for key, value in wanted.items() if found.get(key, ...) != value}


def _point_differences(logged: WandbRun, replica: RunState) -> Iterator[Any]:
    """Points that one home has alone; in MLflow those of the summary stand beside the rows'."""
    found = Counter(
        (key, step, value, at_ms)
        for key, points in replica.metrics.items()
        if not key.startswith("system/")
        for value, at_ms, step in points
    )
    wanted = Counter(logged.points)
    lost = sorted((wanted - found).elements(), key=str)
    if lost:
        yield "points that MLflow lacks", lost
    last = {key: value for key, _, value, _ in logged.points}
    media = tuple(key.removesuffix("_type") for key in logged.summary if key.endswith("._type"))
    summary = {
        key: stored(value)
        for key, value in logged.summary.items()
        if isinstance(value, (int, float)) and not key.startswith((*INTERNAL, *media))
    }
    of_summary = sorted(pair for pair in summary.items() if last.get(pair[0]) != pair[1])
    beside = sorted((key, value) for key, _, value, _ in (found - wanted).elements())
    if beside != of_summary:
        yield "points beside the rows'", beside, of_summary


def _params(logged: WandbRun) -> dict[str, str]:
    """The first value of each config leaf, as text."""
    return {
        ".".join(path): (
            json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else str(value)
        )[:PARAM_LENGTH]
        for path, value in logged.first_config.items()
        if path[0] not in (*NAMES_OF_THE_REPLICA, "_wandb", MLFLOW_CALLS)
    }


def _config(document: str) -> dict[Leaf, Any]:
    """The leaves of a config."""
    return dict(leaves((), json.loads(document)))


def _without_own(config: Mapping[Leaf, Any]) -> dict[Leaf, Any]:
    """A config without W&B's own part."""
    return {path: value for path, value in config.items() if path[0] != "_wandb"}


def _objects(document: str) -> dict[int, dict[str, Any]]:
    """What is no number, by step: media as their type."""
    found = {}
    for row in map(json.loads, document.splitlines()):
        step = row.pop("_step")
        del row["_timestamp_ms"]
        found[step] = {
            key: value.get("_type", value) if isinstance(value, dict) else value
            for key, value in row.items()
        }
    return found


def _tags(replica: RunState) -> dict[str, str]:
    names = (
        "wandb.tags", "run_group", "wandb.job_type", "mlflow.note.content", "wandb.sweep_id",
        "wandb.project", "wandb.state", "mlflow.wandb.state", "mlflow.wandb.origin",
        "mlflow.wandb.losses",
    )  # fmt: skip
    return {name: replica.tags[name] for name in names if name in replica.tags}


def _wanted_tags(logged: WandbRun, run: Run) -> dict[str, str]:
    tags = {
        "wandb.tags": json.dumps(list(run.tags)) if run.tags else "",
        "run_group": run.group or "", "wandb.job_type": run.job_type or "",
        "mlflow.note.content": run.notes or "", "wandb.sweep_id": run.sweep_name or "",
        "wandb.project": logged.project, "wandb.state": run.state,
        "mlflow.wandb.state": "complete", "mlflow.wandb.origin": "dual",
        "mlflow.wandb.losses": "{}",
    }  # fmt: skip
    return {name: value for name, value in tags.items() if value}


def _file_differences(run: Run, replica: RunState) -> Iterator[Any]:
    """Files and artifacts that W&B's server has, and MLflow has not, or not byte by byte."""
    wanted = {
        f"wandb/files/{name}": _sha256(blob.path)
        for name, blob in run.files.items()
        if name not in WRITTEN_AT_THE_END and not name.startswith("artifacts/")
    }
    for artifact in run.logged_artifacts:
        wanted.update(_artifact_files(artifact))
    other = {path: replica.artifacts.get(path) for path in wanted}
    if other != wanted:
        yield "files", [path for path in wanted if other[path] != wanted[path]]


def _artifact_files(artifact: Artifact) -> dict[str, str]:
    collection = artifact.collection
    assert artifact.manifest is not None
    entries = json.loads(artifact.manifest.path.read_text())["contents"]
    place = f"wandb/artifacts/{collection.type}/{collection.name}/{artifact.digest[:12]}"
    return {
        f"{place}/{path}": _sha256(artifact.files[entry["digest"]].path)
        for path, entry in entries.items()
        if "ref" not in entry
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
