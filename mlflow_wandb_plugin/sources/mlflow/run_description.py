"""Describe a run that was created in MLflow, in W&B's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.mlflow_terms import NOTES_TAG, PARENT_TAG
from mlflow_wandb_plugin.core.model import RunInfo, RunState, flatten
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.sources.mlflow.point_spool import LARGEST

if TYPE_CHECKING:
    from mlflow.entities import Run

MLFLOW_RUN_ID = "mlflow_run_id"
"""The fact with the id of the run in MLflow, by which it is read again."""
STATES: Mapping[str, RunState] = {
    "RUNNING": "running",
    "SCHEDULED": "running",
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "killed",
}
"""W&B's run states by MLflow's run status."""


@dataclass(slots=True)
class RunDetails:
    """What MLflow keeps of a run beside the run itself.

    Attributes:
        registered_files: see `rules.config_section`.
        traces: number of traces.
        lost: number of things that could not be read, by kind.
    """

    registered_files: dict[str, Any] = field(default_factory=dict)
    traces: int = 0
    lost: dict[str, int] = field(default_factory=dict)


def run_info(
    run: Run, experiment: str, tracking_uri: str, details: RunDetails | None = None
) -> RunInfo:
    """Return the run with its description and summary, as the live mirror describes it.

    Args:
        experiment: its name.
    """
    details, info, tags = details or RunDetails(), run.info, identity.present_tags(run.data.tags)
    secrets, parent = Secrets.of_setting(), tags.get(identity.PARENT_ID) or tags.get(PARENT_TAG)
    # A run that came back from W&B has the id with which it was created first.
    run_id = tags.get(identity.RUN_ID, info.run_id) if identity.RESTORED in tags else info.run_id
    section = rules.config_section(
        name=info.run_name,
        user=info.user_id or "",
        experiment=experiment,
        status=info.status,
        start_ms=info.start_time,
        end_ms=info.end_time,
        parent=parent,
        tags=tags,
        secrets=secrets,
        datasets=[rules.dataset_entry(dataset) for dataset in datasets(run)],
        input_models=[model.model_id for model in getattr(run.inputs, "model_inputs", None) or ()],
        registered_files=details.registered_files,
        traces=details.traces,
        lost=details.lost,
    )
    header = {
        "mlflow_run_id": run_id,
        "experiment_id": info.experiment_id,
        "tracking_uri": tracking_uri,
    }
    config = rules.run_config(header, run.data.params, section, secrets)
    state = STATES.get(info.status, "running")
    notes = tags.get(NOTES_TAG, "")
    return RunInfo(
        run_id=run_id,
        project=rules.project_name("{experiment}", experiment),
        name=rules.run_name(info.run_name) or "",
        notes=notes and secrets.text(notes),
        tags=rules.wandb_tags(tags, secrets),
        group=parent or "",
        segments=(rules.SEGMENT,),
        state=state,
        exit_code=rules.EXIT_CODES.get(info.status),
        started_ms=info.start_time,
        ended_ms=None if state == "running" else info.end_time,
        config=config,
        first_config=flatten(config),
        summary={rules.metric_key(key): finite(value) for key, value in run.data.metrics.items()},
        facts=rules.run_facts(tags, info.user_id or "") | {MLFLOW_RUN_ID: info.run_id},
    )


def datasets(run: Run) -> Sequence[Mapping[str, Any]]:
    """Return the run's datasets, each with its tags."""
    names = ("name", "digest", "source_type", "source", "schema", "profile")
    return [
        {name: getattr(given.dataset, name) for name in names}
        | {"tags": {tag.key: tag.value for tag in given.tags or ()}}
        for given in getattr(run.inputs, "dataset_inputs", None) or ()
    ]


def finite(value: float) -> float:
    """Return a metric's value; MLflow's databases hold infinities as the largest float."""
    return float("inf") * value if abs(value) == LARGEST else value
