"""A wandb folder whose every point is known, and what MLflow has of it."""

from __future__ import annotations

from pathlib import Path

from mlflow_wandb_plugin.wandb_log.log_writer import LogWriter
from tests.support.mlflow_state import read_runs
from tests.support.records import exit_record, history_record, run_record

RUNS, ROWS = 6, 80


def value(number: int, step: int) -> float:
    return number + step / 7


def make_folder(folder: Path, project: str) -> dict[str, list[tuple[int, float]]]:
    """Runs in a wandb folder; returns each one's points of metric ``m``, as (step, value)."""
    for number in range(RUNS):
        run_id = f"{project}{number}"
        place = folder / f"offline-run-20260101_00000{number}-{run_id}"
        place.mkdir(parents=True)
        with LogWriter(place / f"run-{run_id}.wandb") as log:
            log.append(run_record(run_id, project=project).SerializeToString())
            for step in range(ROWS):
                row = history_record({"m": value(number, step)}, step, 1.7e9 + step)
                log.append(row.SerializeToString())
            log.append(exit_record().SerializeToString())
    return {
        f"{project}{number}": [(step, value(number, step)) for step in range(ROWS)]
        for number in range(RUNS)
    }


def points_at(uri: str, project: str) -> dict[str, list[tuple[int, float]]]:
    """What MLflow has of the runs of one project."""
    from mlflow import MlflowClient

    experiment = MlflowClient(uri).get_experiment_by_name(project)
    assert experiment is not None
    runs = read_runs(uri, experiments=[experiment.experiment_id])
    return {run_id: state.points("m") for run_id, state in runs.items()}
