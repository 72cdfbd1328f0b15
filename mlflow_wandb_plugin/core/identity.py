"""What ties a run's two homes together, and the verdict on a run that a backfill meets.

All state lives on the target, as tags: any machine can go on where another stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.redaction import without_credentials

RUN_ID = "wandb.run_id"
RUN_PATH = "wandb.run_path"
PROJECT = "wandb.project"
ENTITY = "wandb.entity"
ORIGIN = "wandb.sync.origin"
STATE = "wandb.sync.state"
POSITION = "wandb.sync.position"
ROWS = "wandb.sync.rows"
CLAIM = "wandb.sync.claim"
SWEEP = "wandb.sweep"
"""Carried by the run that is the parent of a sweep's runs; they carry `wandb.sweep_id`."""
PARENT_GROUP = "wandb.parent_of_group"
"""Carried by the run that is the parent of the runs whose config names the group."""
MAPPING = "wandb.sync.mapping"
STEP_METRIC = "wandb.sync.step_metric"
"""Decided when the run is first written: a run has one kind of step."""
LOSSES = "wandb.sync.losses"
REWRITES = "wandb.sync.rewrites"
OWNER = "wandb.sync.owner"
"""Which outbox mirrors a run that was born in MLflow: a client and its server may both see it."""
MIRROR = "mirror"
"""Value of `ORIGIN` of a run that was born in MLflow."""

EWM_RUN_ID = "wandb_run_id"
"""The tag with W&B's run id that export-wandb-to-mlflow writes."""

STEP_METRIC_CONFIG_KEY = "mlflow_step_metric"
"""A config key of the user's: the dotted key of the metric whose values are MLflow's steps."""
GIVEN_RUN_CONFIG_KEY = "mlflow_run_given"
"""True where ``mlflow_run_id`` names a run that the user gave us to write."""
PARENT_RUN_KEY = "mlflow_parent_run_id"
PARENT_GROUP_KEY = "mlflow_parent_group"
"""Config keys that say below which MLflow run a run belongs: one that exists, or one that is made
for the runs that name the same group."""
IDENTITY_CONFIG_KEYS = (
    "mlflow_run_id",
    "mlflow_experiment_id",
    "mlflow_tracking_uri",
    STEP_METRIC_CONFIG_KEY,
    GIVEN_RUN_CONFIG_KEY,
    PARENT_RUN_KEY,
    PARENT_GROUP_KEY,
)

Origin: TypeAlias = Literal["dual", "backfill"]
Verdict: TypeAlias = Literal["new", "dual-written", "partial", "existing", "foreign"]


@dataclass(frozen=True, slots=True)
class Twin:
    """The run in MLflow that replicates a W&B run.

    Attributes:
        position: how far each log has been carried, by segment; -1 stands for "to its end".
        rows: number of history rows carried, by segment.
        foreign: export-wandb-to-mlflow migrated the run.
        adopted: the W&B config names it, but it carries none of our tags yet: another tool
            (MosaicML Composer) dual-writes it, with times and a density of its own.
    """

    run_id: str
    experiment_id: str
    origin: str
    state: str
    position: Mapping[str, int]
    rows: Mapping[str, int]
    foreign: bool = False
    adopted: bool = False

    def complete(self, info: RunInfo) -> bool:
        """Everything of ``info`` that is known to be logged has arrived: all of its logs, or,
        where W&B's server counts rows, as many rows as it has."""
        if self.state != "complete":
            return False
        counted = info.rows.get(SERVER)
        if counted is not None:
            return counted == total_rows(self.rows)
        return all(self.position.get(segment) == TO_THE_END for segment in info.segments)


TO_THE_END = -1
SERVER = "server"
"""The one segment of a run that is read from W&B's server, which has joined the run's logs."""


def ended(position: Mapping[str, int], segments: Sequence[str]) -> dict[str, int]:
    """Where a complete run stands in its logs: at the end of each.

    A server's log may go on when the run is resumed, behind where it ended: that place is kept.
    """
    standing = {key: at for key, at in position.items() if not _journal_of(key, segments)}
    return standing | {segment: TO_THE_END for segment in segments if segment != SERVER}


def _journal_of(key: str, segments: Sequence[str]) -> bool:
    return key.startswith("journal:") and key.removeprefix("journal:") in segments


def joined_rows(before: Mapping[str, int], rows: Mapping[str, int]) -> dict[str, int]:
    """History rows carried, by segment, after ``rows`` more segments. A server has joined the run's
    logs and counts each row that they held: its count stands alone."""
    return dict(rows) if SERVER in rows else {**before, **rows}


def total_rows(rows: Mapping[str, int]) -> int:
    """History rows of a run, given their number by segment."""
    return rows[SERVER] if SERVER in rows else sum(rows.values())


def verdict(info: RunInfo, twin: Twin | None) -> Verdict:
    """What a backfill is to make of ``info``, given its twin on the target."""
    if twin is None:
        return "new"
    if twin.origin == MIRROR:
        # Born in MLflow: W&B holds the replica, and has nothing that MLflow lacks.
        return "dual-written"
    if twin.foreign:
        return "foreign"
    if not twin.complete(info):
        return "partial"
    return "dual-written" if twin.origin == "dual" else "existing"


def identity_tags(info: RunInfo, origin: Origin, mapping_version: str) -> dict[str, str]:
    """Tags set when a run is opened. ``origin`` says who opened it first and stays."""
    tags = {
        RUN_ID: info.run_id,
        RUN_PATH: info.path,
        PROJECT: info.project,
        ORIGIN: origin,
        STATE: "live",
        MAPPING: mapping_version,
    }
    optional = {ENTITY: info.entity, STEP_METRIC: step_metric(info)}
    return tags | {key: value for key, value in optional.items() if value}


def same_run(info: RunInfo, tags: Mapping[str, str]) -> bool:
    """Whether tags name ``info``. An entity that one side does not know does not part them."""
    if tags.get(RUN_ID) != info.run_id or tags.get(PROJECT, info.project) != info.project:
        return False
    entity = tags.get(ENTITY, "")
    return not entity or not info.entity or entity == info.entity


def config_keys(run_id: str, experiment_id: str, tracking_uri: str) -> dict[str, str]:
    """What the W&B run's config says of its twin; MosaicML Composer writes the same keys."""
    return {
        "mlflow_run_id": run_id,
        "mlflow_experiment_id": experiment_id,
        "mlflow_tracking_uri": without_credentials(tracking_uri),
    }


def write_numbers(numbers: Mapping[str, int], limit: int) -> str:
    """The value of a tag that holds a number a segment (`POSITION`, `ROWS`); the oldest segments
    go where it would grow too long."""
    entries = dict(numbers)
    while len(text := json.dumps(entries)) > limit:
        del entries[next(iter(entries))]
    return text


def read_numbers(tags: Mapping[str, str], tag: str) -> dict[str, int]:
    """A tag written by `write_numbers`; one that cannot be read counts as "nothing yet"."""
    try:
        position = json.loads(tags.get(tag, "{}"))
        return {str(segment): int(offset) for segment, offset in position.items()}
    except (ValueError, AttributeError, TypeError):
        return {}


def step_metric(info: RunInfo) -> str:
    """The dotted key of the metric whose values are MLflow's steps; empty for W&B's own step."""
    named = info.config.get(STEP_METRIC_CONFIG_KEY)
    return named if isinstance(named, str) else ""
